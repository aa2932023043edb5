"""Tests of the options that commands on a run share."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from tests.generation import tiny_run

COMMANDS = [
    ["generate", "{run}", "Once"],
    ["evaluate", "{run}", "--text", "{run}/config.yaml", "--num-samples", "0", "--num-cloze", "0"],
    ["evaluate", "{run}", "--suite", "small"],
    ["perplexity", "{run}", "Once upon a time"],
    ["compare", "{run}", "{run}", "--data", "{run}/config.yaml", "--checkpoint", "latest"],
    ["export", "{run}", "--to", "safetensors", "--out", "{run}-out"],
    ["export", "{run}", "--to", "safetensors", "--out", "{run}-out", "--checkpoint", "all"],
    ["samples", "{run}", "Once"],
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "plain")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_that_loads_a_run_takes_weights(
    words: Sequence[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the average, of a run without one."""
    code = fabella([*(word.format(run=run) for word in words), "--weights", "average"])
    message = capsys.readouterr().err
    assert code == 4
    assert "has no average of its weights: optimizer.average.kind = none." in message
    assert "Use --weights trained, or train with optimizer.average.kind=ema." in message


def test_other_weights_are_a_usage_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["generate", str(run), "Once", "--weights", "best"]) == 2
    assert "trained" in capsys.readouterr().err
