"""Tests of imported runs: what the commands do with them, and that an interrupted import leaves nothing."""

from pathlib import Path

import pytest

from fabella.cli.main import run as fabella_command
from fabella.errors import FabellaError, StorageError, UsageError
from fabella.interop import import_model as module
from fabella.interop.export import export
from fabella.interop.import_model import import_model
from fabella.runs.run_dir import RunDir
from tests.interop.tiny_exports import TEXTS, make_run, sentencepiece


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    export(make_run(folder / "run", "llama", sentencepiece()), to="llama2c", out=folder / "out")
    return folder / "out" / "model.bin"


def test_an_imported_run_is_evaluated_on_a_text(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert fabella_command(["import", str(model), "--out", str(run), "--json"]) == 0
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS[:2]))
    arguments = ["evaluate", str(run), "--text", str(tmp_path / "text.txt"), "--num-samples", "0", "--num-cloze", "0"]
    capsys.readouterr()
    assert fabella_command(arguments) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert fabella_command(["evaluate", str(run)]) == 4
    assert "was imported: its training text is not known" in capsys.readouterr().err
    assert fabella_command(["verify", str(run)]) == 0


@pytest.mark.fault("E17", cases=1)
def test_an_import_interrupted_while_writing_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_model(model, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert RunDir.open(import_model(model, out=tmp_path / "run").path).steps() == [0]
    with pytest.raises(StorageError, match="contains a run already"):
        import_model(model, out=tmp_path / "run")


@pytest.mark.parametrize("name", ["missing", "file.txt"])
def test_a_path_that_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("Once upon a time")
    with pytest.raises(UsageError, match="Give a Hugging Face folder"):
        import_model(tmp_path / name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("E17", cases=2)
@pytest.mark.parametrize("content", [b"PK\x03\x04", b"\x80\x04\x95"])
def test_a_pickle_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content + bytes(40))
    with pytest.raises(FabellaError, match="refusing pickle"):
        import_model(tmp_path / "model.pt", out=tmp_path / "run")
