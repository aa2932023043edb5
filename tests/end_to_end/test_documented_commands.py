"""Tests that every command and every Python block of README and docs works, in the order of the page.

Each page has its own directory with a `my-stories.txt`. The table FASTER reduces training to a few steps; the commands
are unchanged otherwise. They run in forks of a process that has imported the package, since most of their time would be
importing torch; `test_wheel.py` runs the first commands of the README as they are installed.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from fabella.cli.presets import table
from fabella.text.storybook.generator import stories
from tests.fork_server import fork_server

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES[1:], *REPOSITORY.glob("*.md"), *(REPOSITORY / "benchmarks").glob("*.md")]

# Commands that cannot run in a test → reason.
NOT_RUN = {
    "make story": "it runs the commands of the quickstart, and CI runs it",
    "make test": "it would run this test again",
    "source ": "the tests run in an environment already",
    "fabella serve ": "serves until it is stopped; tests/server/test_http_server.py starts and stops it",
    "fabella lm-eval": "needs the extra eval, 300 MB that `make test` does not install, and data from the hub",
    "docker ": "needs a container engine; tests/test_dockerfile.py reads the file instead",
}
# Shortens training to seconds.
FASTER = [
    (r"(fabella train my-stories\.txt)$", r"\1 --steps 4"),
    (r"--steps [123]00\b", "--steps 4"),
    (r"--steps [23]10\b", "--steps 6"),
    (r"--steps 400\b", "--steps 6"),
    (r"--steps 500\b", "--steps 8"),
    (r"--steps 600\b", "--steps 10"),
    (r"(--lr-find)$", r"\1 --steps 3"),
    (r"--checkpoint 100\b", "--checkpoint 2"),
    (r"\bsteps=500\b", "steps=4"),
    (r"(fabella (?:train|reproduce|tune|compare-architectures) .*)$", r"\1 training.micro_batch_size=2"),
    (r"(fabella (?:train|tune) my-stories\.txt (?!.*--init-from).*)$", r"\1 model.layers=1"),
    (r"(fabella reproduce .*)$", r"\1 model.layers=1"),
    (r"(fabella train storybook-1m (?!.*--data).*)$", r"\1 data.source.stories=2000"),
    (r"--trials 3\b", "--trials 2"),
    (r"--minutes \d+", "--minutes 0.05"),
]
QUICKSTART = "fabella quickstart --minutes 0.05"
"""What the pages run, after FASTER."""
INSTALLED = Path(sys.executable).parent
STORIES = 150
SECONDS_PER_COMMAND = 300  # timeout for a hanging command; a command takes about five seconds


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, text and line number."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """Path of the file to save the block as, from the comment in its first line, or an empty string."""
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
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)


def with_commands() -> list[Path]:
    """Return the pages of the docs that have a command or a Python block."""
    runnable = {"console", "sh", "python"}
    return [page for page in PAGES[1:] if any(block.language in runnable for block in blocks(page))]


def faster(command: str) -> str:
    for pattern, replacement in FASTER:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """Create the directory of a reader, with a text."""
    text = "<|endoftext|>\n".join(f"{story}\n" for story in itertools.islice(stories(STORIES, seed=3), STORIES))
    (tmp_path / "my-stories.txt").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start the process whose forks run the commands of the docs."""
    with fork_server(tmp_path_factory.mktemp("fork_server")) as directory:
        yield directory


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all workers of this session share, for what `fabella quickstart` makes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "quickstart"


@dataclass(frozen=True)
class Shell:
    """Where the commands of a page run, and how."""

    reader: Path
    programs: Path
    trained: Path

    @property
    def printed(self) -> Path:
        """File with what `fabella quickstart` printed."""
        return self.trained.with_suffix(".txt")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command; `fabella quickstart` once for all pages, which begin with copies of its files."""
        if command != QUICKSTART:
            return run(command, self.reader, self.programs)
        with FileLock(self.trained.with_suffix(".lock")):
            process = subprocess.CompletedProcess[str](command, 0, "", "")
            if not self.trained.exists():
                self.trained.mkdir()
                process = run(command, self.trained, self.programs)
                self.printed.write_text(process.stderr + process.stdout, encoding="utf-8")  # stdout comes at the end
        if process.returncode == 0:
            shutil.copytree(self.trained, self.reader, dirs_exist_ok=True)
        return process


def run(command: str, reader: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(programs), str(INSTALLED), environment["PATH"]])
    environment["PYTHONPATH"] = str(REPOSITORY / "src")
    environment.pop("FABELLA_MATMUL", None)  # no numbers are compared here, and the measured choice trains faster
    return subprocess.run(
        command, cwd=reader, env=environment, shell=True, capture_output=True, text=True, timeout=SECONDS_PER_COMMAND
    )


def execute(block: Block, shell: Shell) -> list[str]:
    """Run the commands of a block, or save it as a file. Return the errors."""
    if block.file:
        target = shell.reader / block.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")
        return []
    if block.language == "python":
        process = shell.run(shlex.join(["python", "-c", faster(block.text)]))
        return [f"line {block.line}: {process.stderr[-2000:]}"] if process.returncode else []
    if block.language not in {"console", "sh"}:
        return []
    for command in block.commands:
        if not command.startswith(tuple(NOT_RUN)):
            process = shell.run(faster(command))
            if process.returncode:
                return [f"line {block.line}: {command}\n{(process.stderr or process.stdout)[-2000:]}"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *with_commands()], ids=lambda page: page.stem)
def test_every_command_of_a_page_works(page: Path, reader: Path, programs: Path, trained: Path) -> None:
    check(page, Shell(reader, programs, trained))


def check(page: Path, shell: Shell) -> None:
    for block in blocks(page):
        problems = execute(block, shell)
        assert not problems, f"{page.name}, {problems[0]}"


def test_the_pages_share_a_quickstart() -> None:
    commands = [faster(command) for page in PAGES[1:] for block in blocks(page) for command in block.commands]
    assert commands.count(QUICKSTART) >= 2


def test_every_exception_is_documented() -> None:
    commands = [command for page in PAGES for block in blocks(page) for command in block.commands]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), f"nothing begins with {start!r} any more"


PASTED = re.compile(r"<!-- quickstart output: begin -->\n```text\n(.*?)```\n<!-- quickstart output: end -->", re.DOTALL)
# What differs between two machines or two runs → what stands for it.
MASKS = [
    (r"^(step [\d,]+ sample: ).*", r"\1TEXT"),
    (r"^  (?! ?\d+ %|fabella ).*", "TEXT"),  # a story
    (r"^Training on .*", "Training on DEVICE."),
    (r"\d+(?:[.,:]\d+)*", "0"),
    (r" +", " "),
]
# Lines that a machine prints or not.
OPTIONAL = re.compile(
    r"^(inspecting|sampling|training the tokenizer|encoding) .* documents |^Matrix products: |gradient norm spike"
    r"|^Training is slower without the training kernels"
)


def kinds_of_lines(output: str) -> list[str]:
    """Return the different lines of an output, masked, in the order of their first occurrence."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip() not in {"", "…"}]
    lines = [line for line in lines if not OPTIONAL.search(line)]
    for pattern, replacement in MASKS:
        lines = [re.sub(pattern, replacement, line) for line in lines]
    return list(dict.fromkeys(line.strip() for line in lines))


@pytest.mark.slow
def test_the_readme_shows_what_the_quickstart_prints(reader: Path, programs: Path, trained: Path) -> None:
    """Every kind of line that is printed is shown, and none that is not; numbers and texts may differ.

    The lines of steps are in an order that depends on the speed of the machine.
    """
    shell = Shell(reader, programs, trained)
    process = shell.run(QUICKSTART)
    assert process.returncode == 0, process.stderr
    pasted = PASTED.search(README.read_text(encoding="utf-8"))
    assert pasted
    shown, printed = kinds_of_lines(pasted[1]), kinds_of_lines(shell.printed.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(printed)
    assert [line for line in shown if "step 0" not in line] == [line for line in printed if "step 0" not in line]


def test_another_label_or_command_is_another_kind_of_line() -> None:
    output = (
        "step 50: validation loss 3.3, perplexity 28.05\n  Once\n 50 %  step 1/2\nTry next:\n  fabella train a.txt\n"
    )
    shown = kinds_of_lines(output)
    assert shown == [
        "step 0: validation loss 0, perplexity 0", "TEXT", "0 % step 0/0", "Try next:", "fabella train a.txt"
    ]  # fmt: skip
    for old, new in (("perplexity", "ppl"), ("train", "fit"), ("Try next", "Next"), ("Once", "Twice"), ("28.05", "7")):
        changed = kinds_of_lines(output.replace(old, new))
        assert (changed == shown) == (old in {"Once", "28.05"}), old


def test_readme_shows_the_real_presets() -> None:
    shown = re.search(r"<!-- presets: .*?-->\n```text\n(.*?)\n```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert shown
    assert shown[1] == table()


@pytest.mark.parametrize("page", ALL_PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in ALL_PAGES])
def test_every_link_of_a_page_resolves(page: Path) -> None:
    """The site generates `reference/` and `notebooks/`; its strict build (tests/test_site.py) checks links to them."""
    for target in re.findall(r"\]\((?!https?:|reference/|notebooks/)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
