"""Tests of the export command and of what an export needs before it starts."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fabella
from fabella.cli.main import run as fabella_command
from fabella.engine.engine import State
from fabella.errors import NumericsError, StorageError, UsageError
from fabella.interop.export import export, export_checkpoints, read_record, verify_checkpoints, verify_export
from fabella.interop.formats import export_format, safetensors
from fabella.runs.checkpoint import Checkpoint, load_weights, save
from fabella.runs.run_dir import RunDir
from tests.interop.tiny_exports import add_checkpoints, make_run


def test_export_and_verify_print_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "llama")
    out = tmp_path / "out"
    arguments = [str(run), "--to", "safetensors", "--precision", "float32", "--out", str(out), "--json"]
    assert fabella_command(["export", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["comparison"]["greedy_equal"] == 20
    assert fabella_command(["verify", str(out), "--against", str(run)]) == 0
    assert "equals step 10" in capsys.readouterr().out


def test_the_default_directory_is_named_after_run_and_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fabella.export(make_run(tmp_path / "mine", "llama"), to="safetensors").path == Path(
        "exports/mine-safetensors"
    )


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(UsageError, match=r"needs transformers, which is not installed. .*pip install .*\[export\]"):
        export(tmp_path / "run", to="hf")


def test_the_install_command_fits_a_wheel_and_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, wheel = tmp_path / "clone/src/fabella", tmp_path / "site-packages/fabella"
    for package in (clone, wheel):
        package.mkdir(parents=True)
    (tmp_path / "clone/pyproject.toml").touch()
    monkeypatch.setattr(fabella, "__file__", str(clone / "__init__.py"))
    assert export_format.install_command("export") == f"pip install -e '{tmp_path / 'clone'}[export]'"
    monkeypatch.setattr(fabella, "__file__", str(wheel / "__init__.py"))
    assert export_format.install_command("export") == "pip install 'fabella[export]'"


@pytest.mark.fault("E15", cases=1)
def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama")
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        export(run, to="safetensors", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.fault("E15", cases=4)
@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"format": 3, "step": "x"}'])
def test_a_damaged_record_of_an_export_is_refused(record: bytes, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_bytes(record)
    with pytest.raises(StorageError, match="is damaged"):
        verify_export(tmp_path, against=tmp_path)


def test_a_directory_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not an export"):
        verify_export(tmp_path, against=tmp_path)


def test_the_average_of_the_weights_is_exported_and_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama")
    state = load_weights(RunDir.open(run), 10).checkpoint.state
    average = {name: array * 2 for name, array in state.weights.items()}
    averaged = State(state.weights, {}, {**state.scalars, "averaged": 3}, average)
    save(RunDir.open(run), 10, Checkpoint(averaged, {}))
    trained, exported = (
        export(run, to="safetensors", precision="float32", out=tmp_path / weights, weights=weights).path
        for weights in ("trained", "average")
    )
    records = [read_record(path) for path in (trained, exported)]
    assert [record["weights"] for record in records] == ["trained", "average"]
    assert records[0]["model_sha256"] != records[1]["model_sha256"]
    assert (exported / "model.safetensors").read_bytes() != (trained / "model.safetensors").read_bytes()
    assert verify_export(exported, against=run).weights == "average"
    save(RunDir.open(run), 10, Checkpoint(State(state.weights, {}, state.scalars), {}))
    with pytest.raises(StorageError, match="no average of its weights"):
        verify_export(exported, against=run)


STEPS = (10, 1000)
NAMES = ["step-00000010", "step-00001000"]
OPTIONS = {"to": "safetensors", "precision": "float32"}


@pytest.fixture(scope="module")
def milestones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with two checkpoints of other weights."""
    return add_checkpoints(make_run(tmp_path_factory.mktemp("runs") / "run", "llama"), *STEPS[1:])


@pytest.fixture(scope="module")
def exported(milestones: Path) -> Path:
    """Return the export of all its checkpoints."""
    return export_checkpoints(milestones, **OPTIONS, out=milestones.parent / "out").path


def test_every_checkpoint_is_exported_as_if_it_were_the_only_one(
    milestones: Path, exported: Path, tmp_path: Path
) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["manifest.json", *NAMES]
    single = export(milestones, **OPTIONS, checkpoint=10, out=tmp_path / "out").path
    names = {path.relative_to(single) for path in single.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(exported / NAMES[0]) for path in (exported / NAMES[0]).rglob("*") if path.is_file()
    }
    for name in names - {Path("export.json"), Path("manifest.json")}:  # these have the measured speed
        assert (exported / NAMES[0] / name).read_bytes() == (single / name).read_bytes()
    records = [read_record(exported / name) for name in NAMES]
    assert [record["step"] for record in records] == list(STEPS)
    assert records[0]["model_sha256"] == read_record(single)["model_sha256"] != records[1]["model_sha256"]


def test_the_command_exports_and_verifies_all_checkpoints(
    milestones: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--to", "safetensors", "--checkpoint", "all", "--out", str(tmp_path / "out"), "--json"]
    assert fabella_command(["export", str(milestones), *arguments]) == 0
    assert [export["step"] for export in json.loads(capsys.readouterr().out)["exports"]] == list(STEPS)
    assert fabella_command(["verify", str(exported), "--against", str(milestones)]) == 0
    printed = capsys.readouterr().out
    assert "2 checkpoints" in printed
    assert all(name in printed for name in NAMES)


@pytest.mark.fault("E15", cases=2)
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_missing_or_changed_checkpoint_of_an_export_is_found(
    how: str, milestones: Path, exported: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    weights = out / NAMES[1] / "model.safetensors"
    if how == "missing":
        shutil.rmtree(weights.parent)
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StorageError, match=NAMES[1]):
        verify_checkpoints(out, against=milestones)


@pytest.mark.fault("E15", cases=2)
@pytest.mark.parametrize("how", ["damaged checkpoint", "unequal export"])
def test_one_checkpoint_that_cannot_be_exported_leaves_nothing(
    how: str, milestones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(milestones, run)
    write = safetensors.save_tensors

    def change_the_last(path: Path, tensors: dict[str, Any], precision: str) -> None:
        factor = 1.01 if NAMES[1] in str(path) else 1.0
        write(path, dict(tensors) | {"norm.weight": tensors["norm.weight"] * factor}, precision)

    if how == "unequal export":
        monkeypatch.setattr(safetensors, "save_tensors", change_the_last)
    else:
        weights = run / "checkpoints" / NAMES[1] / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises((StorageError, NumericsError), match=r"step-00001000|step 1,000"):
        export_checkpoints(run, **OPTIONS, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_checkpoints_and_the_value_all_in_python_are_refused(milestones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(milestones, run, ignore=shutil.ignore_patterns("step-*"))
    with pytest.raises(StorageError, match="has no valid checkpoint"):
        export_checkpoints(run, **OPTIONS, out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"fabella\.export_checkpoints"):
        export(milestones, **OPTIONS, checkpoint="all", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
