"""Every command and every Python block of README and docs, run in the order of the page, as a reader would.

Each page has a folder of its own with a `my-stories.txt` and a copy of the package, so that a page may add a file to
it. Training is cut to a few steps by the table FASTER; nothing else of a command is changed.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabella.cli.presets import table
from fabella.text.storybook.generator import stories

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES[1:], *REPOSITORY.glob("*.md"), *(REPOSITORY / "benchmarks").glob("*.md")]

# What cannot run inside a test, and why.
NOT_RUN = {
    "make story": "it is what `make` and the quickstart are made of, and CI calls make itself",
    "make test": "it would run this test again",
    "source ": "the tests run in an environment already",
    "fabella serve ": "serves until it is stopped; tests/server/test_http_server.py starts and stops it",
    "fabella lm-eval": "needs the extra eval, 300 MB that `make test` does not install, and data from the hub",
    "docker ": "needs a container engine; tests/test_dockerfile.py reads the file instead",
}
# Training as documented, but in seconds.
FASTER = [
    (r"(fabella train my-stories\.txt)$", r"\1 --steps 4"),
    (r"--steps 300\b", "--steps 4"),
    (r"--steps 200\b", "--steps 4"),
    (r"--steps 400\b", "--steps 6"),
    (r"\bsteps=500\b", "steps=4"),
    (r"(fabella train .*)$", r"\1 training.micro_batch_size=2"),
    (r"--minutes \d+", "--minutes 0.05"),
]
STORIES = 400
SECONDS_PER_COMMAND = 300  # a bound for a hanging command on a busy machine; each takes about five seconds


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line where it stands."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The file that a reader is asked to save the block as: named by its first line, or none."""
        named = re.match(r"# ([\w./-]+\.(?:py|yaml))\n", self.text)
        return named[1] if named else ""

    @property
    def commands(self) -> list[str]:
        lines = [line.split("  #")[0].strip() for line in self.text.splitlines()]
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)


def faster(command: str) -> str:
    for pattern, replacement in FASTER:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A reader's folder: the sources, the tests that every family gets, and a text of their own."""
    for folder in ("src/fabella", "tests/models"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(REPOSITORY / file, tmp_path / file)
    text = "<|endoftext|>\n".join(f"{story}\n" for story in itertools.islice(stories(STORIES, seed=3), STORIES))
    (tmp_path / "my-stories.txt").write_text(text, encoding="utf-8")
    return tmp_path


def run(arguments: list[str] | str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(folder / "src")
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        shell=isinstance(arguments, str),
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_COMMAND,
    )


def execute(block: Block, folder: Path) -> list[str]:
    """Do what a block says; what went wrong."""
    if block.file:
        target = folder / block.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")
        return []
    if block.language == "python":
        done = run([sys.executable, "-c", faster(block.text)], folder)
        return [f"line {block.line}: {done.stderr[-2000:]}"] if done.returncode else []
    if block.language not in {"console", "sh"}:
        return []
    for command in block.commands:
        if not command.startswith(tuple(NOT_RUN)):
            done = run(faster(command), folder)
            if done.returncode:
                return [f"line {block.line}: {command}\n{(done.stderr or done.stdout)[-2000:]}"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_command_of_a_page_works(page: Path, reader: Path) -> None:
    for block in blocks(page):
        problems = execute(block, reader)
        assert not problems, f"{page.name}, {problems[0]}"


def test_every_exception_is_documented() -> None:
    commands = [command for page in PAGES for block in blocks(page) for command in block.commands]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), f"nothing begins with {start!r} any more"


def test_readme_shows_the_real_presets() -> None:
    shown = re.search(r"<!-- presets: .*?-->\n```text\n(.*?)\n```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert shown
    assert shown[1] == table()


@pytest.mark.parametrize("page", ALL_PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in ALL_PAGES])
def test_every_link_of_a_page_resolves(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
