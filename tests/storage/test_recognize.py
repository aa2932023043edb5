"""Tests that what Fabella has written is recognized by the names of its files."""

from pathlib import Path

import pytest

from fabella.errors import CheckpointError, TextError
from fabella.runs.run_dir import RunDir
from fabella.runs.verify import verify
from fabella.storage import recognize
from fabella.storage.recognize import PARTS
from fabella.text.paths import find_files
from tests.runs import stub

DEEP = ("checkpoints/step-00000010/model.safetensors", "tokenizer/tokenizer.json", "failures/step-00000010/state.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = stub.folder(tmp_path / "runs" / "a", [10]).path
    for name in (*sorted(PARTS), *DEEP):
        if not (path / name).exists():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).mkdir() if "." not in name and name not in {"latest", "best"} else (path / name).touch()
    return path


@pytest.mark.parametrize("name", [*sorted(PARTS), *DEEP])
def test_part_of_a_run_is_neither_a_text_nor_a_run(name: str, run: Path) -> None:
    known = recognize(run / name)
    assert known
    assert known.kind == f"part of the run {run}"
    with pytest.raises(TextError, match=f"is part of the run {run}, not a text. Give the run: {run}"):
        find_files((str(run / name),))
    for read in (RunDir.open, verify):
        with pytest.raises(CheckpointError, match=f"is part of the run {run}.*Give the run: {run}"):
            read(run / name)


def test_it_is_recognized_by_a_relative_path_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    known = recognize(Path("runs/a/metrics.jsonl"))
    assert known
    assert known.advice == "Give the run: runs/a"
    monkeypatch.chdir(run)
    assert recognize(Path("metrics.jsonl"))


def test_a_file_of_the_user_in_a_run_or_with_such_a_name_elsewhere_is_only_a_file(run: Path) -> None:
    for path in (run / "my-stories.txt", run / "texts" / "metrics.jsonl", run.parent / "samples.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("Once upon a time")
        assert recognize(path) is None
    assert recognize(run / "checkpoints" / "missing") is None


def test_a_directory_of_runs_names_them(run: Path) -> None:
    for read in (RunDir.open, verify):
        with pytest.raises(CheckpointError, match=f"It contains runs: {run}"):
            read(run.parent)
    with pytest.raises(TextError, match=f"There is no text in the directory .*It contains runs: {run}"):
        find_files((str(run.parent),))


def test_an_export_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "ex").mkdir()
    (tmp_path / "ex" / "export.json").write_text("{}")
    (tmp_path / "ex" / "model.safetensors").touch()
    with pytest.raises(TextError, match=r"ex is an export, not a text\. Compare it with its run: fabella verify"):
        find_files((str(tmp_path / "ex"),))
