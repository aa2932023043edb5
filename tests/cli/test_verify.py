"""Tests that `fabella verify` reports intact and damaged runs as text and as JSON."""

import json
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.runs.run_dir import RunDir
from tests.runs import release


@pytest.fixture
def run(tmp_path: Path) -> Path:
    release.make(tmp_path / "run")
    return tmp_path / "run"


def test_an_intact_run_is_reported_as_intact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(run)]) == 0
    assert capsys.readouterr() == (f"{run} is intact.\n", "")


def test_a_damaged_run_exits_with_code_4_and_lists_the_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "latest").unlink()
    model = run / "checkpoints" / "step-00000010" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    (RunDir.open(run).checkpoints / ".step-00000020.partial-0123456789ab").mkdir()
    assert fabella(["verify", str(run)]) == 4
    size = model.stat().st_size
    assert capsys.readouterr().out.splitlines() == [
        f"damaged  step-00000010: step-00000010/model.safetensors: size {size} != {size + 1} in manifest.",
        "damaged  latest: missing; the last checkpoint is step-00000010.",
        "remark   step-00000020: an incomplete file of a killed process. The next save removes it.",
        f"{run}: 2 damaged parts.",
    ]


def test_json_is_one_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(run), "intact": True, "findings": []}
    (run / "best").write_bytes(b"worst")
    assert fabella(["verify", str(run), "--json"]) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["intact"] is False
    assert printed["findings"] == [
        {"level": "damaged", "where": "best", "problem": "best is not the name of a checkpoint: 'worst'."}
    ]


def test_a_missing_run_exits_with_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(tmp_path / "gone")]) == 4
    assert "No run directory at" in capsys.readouterr().out


def test_a_missing_argument_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify"]) == 2
    assert "Missing argument 'run'" in capsys.readouterr().err
