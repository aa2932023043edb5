"""Names and outputs that lead elsewhere, are too long or cannot be written: refused before any work, nothing written.

Row I4 of the fault matrix.
"""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any, get_args

import pytest

from fabella.cli import main
from fabella.cli.main import run as fabella
from fabella.cli.run_options import writable
from fabella.config.base import MAX_FILE_NAME_BYTES
from fabella.errors import ConfigError, StorageError
from fabella.run_config.files import known_keys, preset, sections_at, validate_config
from fabella.storage import require_writable
from fabella.training import api

NAMES = [
    "../../x", "/etc/x", "a/b", "..", ".", " ", "a ", " a", ".a", "a.", "a\\b", "C:x", "a\0b", "a\nb", "a\r\nb", "a\tb",
    "\x1b[2J", "\x9b31m", "\u202eevil", "\u2028", "a\u0085b", "~/x", "a*", "a?", "a[b]*", "<a>", "a|b", 'a"b', "con",
    "NUL", "nul.txt", "COM1", "lpt9.a", "x" * 201, "x" * 10_000, "ä" * 101, "\U0001f4a5" * 51, "\ud800",
    "a/../..", "//",
]  # fmt: skip
GOOD_NAMES = ["own", "my run", "Märchen-3", "a.b", "x" * 200, "ä" * 100, "-rf", "console", "...a...b".strip(".")]


@pytest.mark.fault("I4", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    values = preset("storybook-1m").model_dump(mode="json") | {"name": name}
    with pytest.raises(ConfigError, match=r"^name.*: .*(cannot be the name|has .* bytes|unable to parse)") as caught:
        validate_config(values)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
def test_every_other_name_is_taken(name: str) -> None:
    assert validate_config(preset("storybook-1m").model_dump(mode="json") | {"name": name}).name == name
    assert len(os.fsencode(name)) <= MAX_FILE_NAME_BYTES


SETTINGS = sorted(key for key in known_keys("llama") if not sections_at(key.split(".")))


@pytest.mark.fault("I4", cases=len(SETTINGS))
@pytest.mark.parametrize("key", SETTINGS)
def test_no_setting_writes_outside_of_the_given_directories(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is set to a path, the run directory that is derived from the config stays in ``runs``."""
    home = tmp_path / "home" / "here"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    places: list[Path] = []

    def start(run: Any, out: Path, *_: Any, **__: Any) -> None:
        places.append(out)
        raise StorageError("stopped here")

    monkeypatch.setattr("fabella.training.run.start_run", start)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = ["data.source.stories=24", "tokenizer.kind=bytes", f'{key}="../../outside"']
    code = fabella(["train", "storybook-1m", "--device", "cpu", *settings])
    assert code in {2, 3, 4}
    assert all(place.parent == Path("runs") for place in places)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["here"]


BAD_OUTPUTS = {
    "a name of 300 letters": "x" * 300,
    "a name of 256 bytes in 128 letters": "ä" * 128,
    "a long name in the middle": f"{'x' * 300}/run",
    "a path of 5,000 letters": "/".join(["x" * 99] * 50),
    "a control character": "a\x1b[31mb",
    "a newline": "a\nb",
    "a bidirectional override": "a\u202eb",
    "below a file": "file.txt/run",
    "far below a file": "file.txt/a/b/run",
    "no directory of files": "/proc/fabella-run",
}
OUTPUT_OPTIONS = {"out", "output", "png", "svg", "pdf", "curve", "write"}
OUTPUTS: list[list[str]] = [
    ["train", "story.txt", "--out"],
    ["train", "story.txt", "--prepared"],
    ["quickstart", "--out"],
    ["quickstart", "--prepared"],
    ["prepare", "story.txt", "--out"],
    ["tokenizer", "train", "story.txt", "--out"],
    ["tune", "story.txt", "--out"],
    ["compare-architectures", "story.txt", "--out"],
    ["batch-size", "storybook-1m", "--write"],
    ["bench", "--output"],
    ["report", "runs/a", "--output"],
    ["report", "runs/a", "--png"],
    ["report", "runs/a", "--svg"],
    ["report", "runs/a", "--pdf"],
    ["report", "runs/a", "--curve"],
]


@pytest.mark.fault("I4", cases=len(OUTPUTS) * len(BAD_OUTPUTS))
@pytest.mark.parametrize("words", OUTPUTS, ids=" ".join)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("A file.")
    for problem, output in BAD_OUTPUTS.items():
        assert fabella([*words, output]) == 4, problem
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, problem
        assert lines[0].isprintable()
        assert len(lines[0]) < 1200
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.fault("I4", cases=3)
@pytest.mark.parametrize("out", ["x" * 300, "file.txt/run", "a\nb"], ids=ascii)
def test_python_refuses_it_before_any_work_as_well(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("Once upon a time.\n\n" * 99)
    with pytest.raises(StorageError):
        api.train("file.txt", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_every_option_that_names_an_output_is_checked() -> None:
    """An option of a new command too: every Path option whose help says that it is written."""
    for command in main.command_files():
        module: Any = importlib.import_module(f"fabella.cli.{command.replace('-', '_')}")
        group = module.app.registered_commands if hasattr(module, "app") else []
        for function in [info.callback for info in group] or [module.command]:
            for name, parameter in inspect.signature(function).parameters.items():
                if name in OUTPUT_OPTIONS and command != "plan":  # a plan writes nothing
                    (option,) = get_args(parameter.annotation)[1:]
                    assert option.callback is writable, f"{command}: {name}"


def test_an_output_that_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "existing").mkdir()
    for path in ("existing", "existing/new", "a/b/c", "x" * 233):
        require_writable(tmp_path / path)
    assert [path.name for path in tmp_path.rglob("*")] == ["existing"]
