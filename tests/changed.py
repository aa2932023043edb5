"""Print the test folders of the packages that differ from the main branch, for `make test-fast`.

    python tests/changed.py              packages with uncommitted changes or commits that origin/main lacks
    python tests/changed.py text data    these packages

The checks of the whole code base (architecture, vocabulary, committed files) are always included.
"""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ALWAYS = ["tests/test_architecture.py", "tests/test_committed.py", "tests/test_vocabulary.py"]


def changed_files() -> list[str]:
    """Return the paths that differ from origin/main, or from the last commit where there is no such branch."""
    base = git("merge-base", "HEAD", "origin/main") or git("rev-parse", "HEAD~1") or "HEAD"
    return [*git("diff", "--name-only", base).splitlines(), *git("ls-files", "-o", "--exclude-standard").splitlines()]


def git(*arguments: str) -> str:
    """Return the output of a git command; empty if it fails."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def packages_of(files: list[str]) -> set[str]:
    """Return the packages, such as ``text``, that the files belong to."""
    parts = [Path(file).parts for file in files]
    sources = {part[2] for part in parts if part[:2] == ("src", "fabella") and len(part) > 3}
    return sources | {part[1] for part in parts if part[:1] == ("tests",) and len(part) > 2}


def main() -> None:
    """Print the arguments for pytest."""
    packages = set(sys.argv[1:]) or packages_of(changed_files())
    folders = [f"tests/{package}" for package in sorted(packages)]
    print(*[folder for folder in folders if (REPOSITORY / folder).is_dir()], *ALWAYS)


if __name__ == "__main__":
    main()
