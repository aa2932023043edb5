"""`fabella verify` says what is whole and what is not, to people and to programs."""

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


def test_a_whole_run_is_said_to_be_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(run)]) == 0
    assert capsys.readouterr() == (f"{run} is whole.\n", "")


def test_a_damaged_run_ends_with_code_4_and_names_what_is_damaged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "latest").unlink()
    model = run / "checkpoints" / "step-00000010" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    (RunDir.open(run).checkpoints / ".step-00000020.partial-0123456789ab").mkdir()
    assert fabella(["verify", str(run)]) == 4
    size = model.stat().st_size
    assert capsys.readouterr().out.splitlines() == [
        f"damaged  step-00000010: step-00000010/model.safetensors: size {size} != {size + 1} in manifest.",
        "damaged  latest: it is missing; the newest checkpoint is step-00000010.",
        "remark   step-00000020: a killed process left it unfinished. The next save removes it.",
        f"{run}: 2 of its parts are damaged.",
    ]


def test_programs_get_one_json_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(run), "whole": True, "findings": []}
    (run / "best").write_bytes(b"worst")
    assert fabella(["verify", str(run), "--json"]) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["whole"] is False
    assert printed["findings"] == [
        {"level": "damaged", "where": "best", "problem": "best names no checkpoint: 'worst'."}
    ]


def test_what_is_no_run_ends_with_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify", str(tmp_path / "gone")]) == 4
    assert "There is no run folder" in capsys.readouterr().out


def test_without_a_folder_the_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["verify"]) == 2
    assert "Missing argument 'run'" in capsys.readouterr().err
