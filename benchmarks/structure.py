"""Measure the structure of the package at some commits: files, lines, imports, equal passages, wording of docstrings.

python -m benchmarks.structure 1c109f2 HEAD
"""

import argparse
import ast
import io
import statistics
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.source_tree import REPOSITORY, imported
from tests.test_vocabulary import in_text

PASSAGE_LINES = 10
"""Consecutive lines, blank ones and imports left out, that two files must share to count as one passage."""
PACKAGE = "src/fabella"

Sources = dict[PurePosixPath, str]
"""Path → text of the Python files of the package."""


def sources_at(commit: str) -> Sources:
    """Return the Python files of the package at a commit."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit, PACKAGE], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    sources: Sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            path, stream = PurePosixPath(member.name), tar.extractfile(member)
            if path.suffix == ".py" and stream is not None:
                sources[path] = stream.read().decode()
    return sources


def fan_outs(sources: Sources) -> dict[PurePosixPath, int]:
    """Return how many files of the package each file imports, those of a package itself left out."""
    modules = {module_name(path) for path in sources if path.name != "__init__.py"}
    fans: dict[PurePosixPath, int] = {}
    for path, text in sources.items():
        names = {name for node in ast.walk(ast.parse(text)) for name in imported(node)}
        fans[path] = len(names & (modules - {module_name(path)}))
    return fans


def module_name(path: PurePosixPath) -> str:
    """Return the dotted name of a module of the package."""
    parts = path.relative_to("src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def equal_passages(sources: Sources) -> int:
    """Return how many passages of a file occur in another file too; those longer than a passage count once."""
    places: dict[tuple[str, ...], set[tuple[PurePosixPath, int]]] = defaultdict(set)
    for path, text in sources.items():
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("import ", "from "))]
        for start in range(len(lines) - PASSAGE_LINES + 1):
            places[tuple(lines[start : start + PASSAGE_LINES])].add((path, start))
    shared = {place for found in places.values() if len({path for path, _ in found}) > 1 for place in found}
    return sum((path, start - 1) not in shared for path, start in shared)


def docstrings(sources: Sources) -> Iterator[str]:
    """Yield the docstrings of modules, classes and functions."""
    for text in sources.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                docstring := ast.get_docstring(node)
            ):
                yield docstring


def measure(sources: Sources) -> dict[str, str]:
    """Return what is measured → its value."""
    lines = [len(text.splitlines()) for text in sources.values()]
    fans = fan_outs(sources)
    texts = list(docstrings(sources))
    banned = sum(any(True for _ in in_text(text)) for text in texts)
    return {
        "files": f"{len(lines):,}",
        "lines": f"{sum(lines):,}",
        "lines of the median file": f"{statistics.median(lines):.0f}",
        "lines of the longest file": f"{max(lines):,}",
        "largest number of own files that a file imports": str(max(fans.values())),
        f"passages of {PASSAGE_LINES} lines that are in another file too": str(equal_passages(sources)),
        "docstrings": f"{len(texts):,}",
        "docstrings with a banned word": str(banned),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("commits", nargs="+")
    commits = parser.parse_args().commits
    measured = [measure(sources_at(commit)) for commit in commits]
    print(f"| | {' | '.join(commits)} |\n|---|{'--:|' * len(commits)}")
    for name in measured[0]:
        print(f"| {name} | {' | '.join(values[name] for values in measured)} |")


if __name__ == "__main__":
    main()
