"""Tests of the command `fabella bench`."""

import json
from pathlib import Path

import pytest

from fabella.benchmark import training as benching
from fabella.cli.main import run


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "SHAPES", {"storybook-1m": (2, 16)})


def test_the_result_is_printed_and_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    command = ["bench", "storybook-1m", "--no-memory", "--rounds", "2", "--device", "cpu"]
    assert run([*command, "--output", str(file), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(file.read_text())
    assert "storybook-1m (2 x 16), machine's peak" in printed.err
    result = json.loads(printed.out)
    assert result["settings"]["rounds"] == 2
    assert list(result["shapes"]["storybook-1m"]["baselines"]) == ["fabella"]
    assert 0 < result["shapes"]["storybook-1m"]["baselines"]["fabella"]["mfu"] < 2
    assert run(command) == 0
    table = capsys.readouterr().out
    assert "tokens/s" in table
    assert "optimizer" in table


def test_unknown_values_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "storybook-1m", "storybok-1m"]) == 2
    assert "Did you mean 'storybook-1m'?" in capsys.readouterr().err
    assert run(["bench", "--precision", "fp8"]) == 2
    assert "Unknown --precision 'fp8'. Choose from: float32, bf16." in capsys.readouterr().err


def test_decoding_is_measured_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "storybook-1m", "--decode", "--rounds", "1", "--max-tokens", "3", "--device", "cpu"]
    assert run([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert "storybook-1m (batch of 16), 4.5 MB of float32 weights, memory bandwidth" in printed.err
    assert json.loads(printed.out)["shapes"]["storybook-1m"]["1"]["baselines"]["fabella"]["tokens_per_second"] > 0
