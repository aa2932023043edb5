"""`fabella bench`, as a user meets it."""

import json
from pathlib import Path

import pytest

from fabella.benchmark import training as benching
from fabella.cli.main import run


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16)})


def test_the_result_can_be_read_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    words = ["bench", "storybook-1m", "--alone", "--no-memory", "--turns", "2", "--device", "cpu"]
    assert run([*words, "--output", str(file), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads(file.read_text())
    assert "storybook-1m (2 x 16), machine's peak" in told.err
    result = json.loads(told.out)
    assert result["settings"]["turns"] == 2
    assert 0 < result["shapes"]["storybook-1m"]["contestants"]["fabella"]["utilisation"] < 2
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown
    assert "optimizer" in shown


def test_what_is_not_there_is_told_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "storybook-1m", "storybok-1m"]) == 2
    assert "There is no preset 'storybok-1m'. Did you mean 'storybook-1m'?" in capsys.readouterr().err
    assert run(["bench", "--precision", "fp8"]) == 2
    assert "--precision fp8 is none here. Choose from: float32, bf16." in capsys.readouterr().err


def test_telling_is_measured_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "storybook-1m", "--decode", "--alone", "--turns", "1", "--tokens", "3", "--device", "cpu"]
    assert run([*words, "--json"]) == 0
    told = capsys.readouterr()
    assert "storybook-1m (16 at once), 4.5 MB of float32 weights, memory read at" in told.err
    assert json.loads(told.out)["shapes"]["storybook-1m"]["1"]["contestants"]["fabella"]["tokens_per_second"] > 0
