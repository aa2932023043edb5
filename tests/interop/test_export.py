"""Tests of the export command and of what an export needs before it starts."""

import importlib.util
import json
from pathlib import Path

import pytest

import fabella
from fabella.cli.main import run as fabella_command
from fabella.errors import StorageError, UsageError
from fabella.interop.export import export, verify_export
from fabella.interop.formats import export_format
from tests.interop.tiny_exports import make_run


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
