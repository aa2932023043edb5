"""Tests that the phases of a mixture end where the config says, and that runs on mixtures resume exactly."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.config.data import MixtureSource
from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import data_mode
from fabella.errors import ConfigError, TrainingInterrupted
from fabella.run_config.run import RunConfig
from fabella.training.data_source import batches_from
from fabella.training.loop import Progress
from fabella.training.run import resume, start_run
from fabella.training.schedule import sequences_before
from fabella.training.setup.mixture_schedule import is_mixture_resolved, resolve_mixture
from fabella.training.setup.resolve_config import resolve_config
from tests.training import tiny

STEPS = 24
STREAMING = (
    "data.mode={kind: streaming, document_shuffle_buffer: 6, sequence_shuffle_buffer: 5, tokenizer_sample_bytes: 20000}"
)
PRETOKENIZED = "data.mode.kind=pretokenized"


def texts(folder: Path) -> list[dict[str, Any]]:
    """Return two sources: long documents of a, and short ones of b."""
    for name, letter, length, count in (("a.txt", "a", 300, 40), ("b.txt", "b", 40, 200)):
        lines = [f"{number} " + letter * length for number in range(count)]
        (folder / name).write_text("\n".join(lines) + "\n")
    return [{"kind": "files", "paths": [str(folder / name)], "separator": "lines"} for name in ("a.txt", "b.txt")]


def run(folder: Path, *overrides: str, weights: tuple[float, float] = (1.0, 1.0), **mixture: Any) -> RunConfig:
    parts = [{"weight": weight, "source": source} for weight, source in zip(weights, texts(folder), strict=True)]
    source = json.dumps({"kind": "mixture", "parts": parts, **mixture})
    return tiny.run(f"data.source={source}", *overrides, steps=STEPS)


def prepared(config: RunConfig, folder: Path) -> TokenizedDataset:
    return tiny.prepared(folder, config)


def letters(config: RunConfig, dataset: TokenizedDataset, batches: int) -> list[float]:
    """Return the share of a among the letters of each batch."""
    config = resolve_config(config, dataset)
    source = batches_from(config, dataset, Progress())
    found: list[float] = []
    for _ in range(batches):
        ids = next(source).targets
        a, b = int((ids == ord("a")).sum()), int((ids == ord("b")).sum())
        found.append(a / (a + b))
    source.close()
    return found


@pytest.mark.parametrize(
    ("until", "end"),
    [
        (6, 6 * 16),
        ("25%", 6 * 16),
        ("25 %", 6 * 16),
        ("2k tokens", 63),
        ("0.5k sequences", 500),
        ("90 sequences", 90),
        ("100%", 12 * 16 + 8 * 24 + 4 * 32),
    ],
)
def test_phases_end_at_steps_shares_tokens_or_sequences(until: int | str, end: int, tmp_path: Path) -> None:
    config = run(tmp_path, schedule=[{"until": until, "weights": [1, 3]}])
    assert is_mixture_resolved(config) == (until == "90 sequences")
    resolved = resolve_mixture(config)
    assert isinstance(resolved.data.source, MixtureSource)
    assert resolved.data.source.schedule[0].until == f"{end} sequences"
    assert is_mixture_resolved(resolved)
    assert resolve_mixture(resolved) == resolved


def test_phases_out_of_order_are_refused(tmp_path: Path) -> None:
    phases = [{"until": "50%", "weights": [1, 3]}, {"until": 3, "weights": [1, 3]}]
    with pytest.raises(ConfigError, match=r"the phase until 3 ends at sequence 48, which is not after .* sequence 192"):
        resolve_mixture(run(tmp_path, schedule=phases))


@pytest.mark.parametrize("mode", [PRETOKENIZED, STREAMING])
def test_shares_are_those_of_tokens_in_both_modes(mode: str, tmp_path: Path) -> None:
    config = run(tmp_path, mode, weights=(1, 3))
    # The numbers, spaces and ends of the documents count as tokens, too: b has fewer letters a token.
    assert np.mean(letters(config, prepared(config, tmp_path), 20)) == pytest.approx(0.27, abs=0.04)


@pytest.mark.parametrize("mode", [PRETOKENIZED, STREAMING])
def test_shares_are_those_of_documents_by_choice(mode: str, tmp_path: Path) -> None:
    config = run(tmp_path, mode, weights=(1, 3), by="documents")
    assert np.mean(letters(config, prepared(config, tmp_path), 20)) == pytest.approx(300 / 420, abs=0.05)


@pytest.mark.parametrize("mode", [PRETOKENIZED, STREAMING])
def test_weights_change_in_the_course_of_the_training(mode: str, tmp_path: Path) -> None:
    config = run(tmp_path, mode, schedule=[{"until": "50%", "weights": [1, 0]}], weights=(0.001, 1))
    shares = letters(config, prepared(config, tmp_path), STEPS)
    # The shuffle buffer of a stream moves sequences across the end of a phase by one batch.
    assert min(shares[:11]) == 1.0
    assert max(shares[14:]) < 0.2


@pytest.mark.parametrize(("until", "epoch"), [("first", 0.5), ("all", 2.0)])
def test_an_epoch_ends_with_the_first_part_or_with_all(until: str, epoch: float, tmp_path: Path) -> None:
    config = run(tmp_path, until=until, weights=(1, 3))
    dataset = prepared(config, tmp_path)
    a, b = (part.tokens / 32 for part in dataset.parts)
    wanted = min(4 * a, 4 * b / 3) if until == "first" else max(4 * a, 4 * b / 3)
    count = data_mode("pretokenized").count_sequences(config.data, dataset)
    assert count == pytest.approx(wanted, rel=0.02)


def stop_at(step: int) -> Any:
    def stop(row: Any) -> None:
        if row["kind"] == "train" and row["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


@pytest.mark.slow
@pytest.mark.fault("B10", cases=4)
@pytest.mark.parametrize("by", ["tokens", "documents"])
@pytest.mark.parametrize("mode", [PRETOKENIZED, STREAMING])
def test_a_run_on_a_mixture_resumes_with_the_same_bits(mode: str, by: str, tmp_path: Path) -> None:
    schedule = [{"until": "40%", "weights": [5, 1]}, {"until": "80%", "weights": [1, 1]}]
    config = run(tmp_path, mode, weights=(1, 5), by=by, schedule=schedule)
    dataset = prepared(config, tmp_path)
    straight = start_run(config, tmp_path / "straight", dataset, device="cpu").path
    with pytest.raises(TrainingInterrupted):
        start_run(config, tmp_path / "run", dataset, device="cpu", trackers=[stop_at(6)])
    with pytest.raises(TrainingInterrupted):
        resume(tmp_path / "run", device="cpu", trackers=[stop_at(15)])
    resume(tmp_path / "run", device="cpu")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(straight)


def test_the_position_counts_changing_batches(tmp_path: Path) -> None:
    config = resolve_mixture(run(tmp_path, schedule=[{"until": 13, "weights": [1, 3]}]))
    assert isinstance(config.data.source, MixtureSource)
    assert config.data.source.schedule[0].until == f"{sequences_before(config.training, 13)} sequences"
