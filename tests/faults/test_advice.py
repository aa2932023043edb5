"""Every command that an error advises works when it is pasted, or leads to a different, later error.

Row I11 of the fault matrix.
"""

import ast
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import command_files
from fabella.cli.main import run as fabella
from fabella.errors import StorageError
from tests.faults.test_moved_runs import stopped_run
from tests.source_tree import FILES, TREES, location

ADVICE = re.compile(r"fabella ((?:[a-z][a-z-]*)(?: (?:'[^']*'|[^\s',;()]+))*)")
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z-]{2,}\b|…|<[a-z]+>")
"""NEW-PATH, TEXT: what only the user knows."""


def commands_in(text: str) -> list[str]:
    """Return the commands in an error, without the end of their sentence. A name alone only mentions a command."""
    found = [match.split(". ")[0].rstrip(".:") for match in ADVICE.findall(text)]
    commands = [command for command in found if command.split()[0] in command_files()]
    return [command for command in commands if " " in command or command == "quickstart"]


# Command line → part of its error. RUN is a stopped run, CHECKPOINT one of its checkpoints, DATA its dataset.
MISTAKES: dict[str, str] = {
    "train RUN": "is a run",
    "train RUN --data storybook:30": "is a run",
    "train storybook-1m --data RUN": "is a run, not a text",
    "train storybook-1m --data CHECKPOINT": "is a checkpoint of a run",
    "train storybook-1m --data RUN/tokenizer": "is a tokenizer",
    "train --init-from RUN --data RUN": "is a run",
    "train storyteller": "is the included model",
    "train storyteller --data storybook:30": "is the included model",
    "resume storyteller": "No run directory",
    "train CHECKPOINT --data storybook:30": "is a checkpoint of a run",
    "train DATA": "is a prepared dataset",
    "train RUN/metrics.jsonl": "is part of the run",
    "check-data RUN/checkpoints": "is part of the run",
    "train storybook-1m --data CHECKPOINT/model.safetensors": "is part of the run",
    "evaluate RUN --text RUN/samples.jsonl": "samples.jsonl",
    "generate RUN/latest": "is part of the run",
    "report RUN/metrics.jsonl": "is part of the run",
    "verify CHECKPOINT": "is a checkpoint of a run",
    "verify runs": "contains runs",
    "train runs": "contains runs",
    "prepare DATA --out again": "is a prepared dataset",
    "check-data RUN": "is a run",
    "tune RUN": "is a run",
    "compare-architectures RUN": "is a run",
    "batch-size RUN": "is a run",
    "train storybook-1m --out RUN": "contains a run already",
    "generate CHECKPOINT": "is a checkpoint of a run",
    "generate RUN/config.yaml": "is the config of a run",
    "generate DATA": "is a prepared dataset",
    "generate RUN/tokenizer": "is a tokenizer",
    "generate runs": "contains runs",
    "generate runs/aa": "Did you mean runs/a",
    "resume CHECKPOINT": "is a checkpoint of a run",
    "resume DATA": "is a prepared dataset",
    "resume nowhere/at-all": "No run directory",
    "evaluate nowhere/at-all": "No run directory",
    "resume MOVED": "is missing",
    "evaluate MOVED": "is missing",
    "evaluate RUN --data nowhere": "no prepared dataset",
    "resume RUN --data nowhere": "no prepared dataset",
    "train no-such-preset": "neither a file nor a preset",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("advice")
    stopped_run(home)
    shutil.copytree(home / "runs" / "a", home / "far" / "from" / "here")
    return home


@pytest.mark.fault("I11", cases=len(MISTAKES))
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_commands_that_an_error_advises_work_or_fail_later(
    mistake: str, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(places, tmp_path / "home"))
    monkeypatch.chdir(home)
    (data,) = (Path("data")).iterdir()
    names = {"RUN": "runs/a", "MOVED": "far/from/here", "DATA": str(data)}
    names["CHECKPOINT"] = "runs/a/checkpoints/step-00000002"
    words = [re.sub("|".join(names), lambda match: names[match[0]], word) for word in mistake.split()]
    assert fabella(words) in {2, 3, 4}
    error = capsys.readouterr().err
    assert MISTAKES[mistake] in error

    def reached(*_: Any, **__: Any) -> None:
        raise StorageError("The training was reached.")

    # Training itself takes long; that it is reached shows that the command was right.
    for place in ("fabella.training.run.start_run", "fabella.training.run.resume", "fabella.cli.quickstart._train"):
        monkeypatch.setattr(place, reached)
    for command in commands_in(error):
        if not PLACEHOLDER.search(command):
            code = fabella(shlex.split(command))
            again = capsys.readouterr().err
            assert code == 0 or "The training was reached." in again or again not in error, command
            assert code != 2, f"{command}: {again}"


def texts() -> dict[str, str]:
    """Return file:line → text of every string of the package with placeholders for its values."""
    found: dict[str, str] = {}
    for path in FILES:
        if not commands_in(path.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
                found[location(path, node)] = "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.setdefault(location(path, node), node.value)
    return {place: text for place, text in found.items() if commands_in(text)}


TEXTS = texts()


@pytest.mark.fault("I11", cases=len(TEXTS))
def test_every_command_in_a_text_of_the_package_has_the_options_that_it_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    helps: dict[str, str] = {}
    for place, text in TEXTS.items():
        for command in commands_in(text):
            words = command.split()
            name = " ".join(words[:2]) if words[0] == "tokenizer" and len(words) > 1 else words[0]
            if name not in helps:
                fabella([*name.split(), "--help"])
                helps[name] = capsys.readouterr().out
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", command):
                assert option in helps[name] or option in {"--help", "--version", "--debug"}, f"{place}: {command}"
