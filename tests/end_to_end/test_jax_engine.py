"""Tests that runs train, resume, generate and evaluate with the JAX engine, without loading PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine_jax import JaxEngine
from fabella.errors import TrainingInterrupted
from fabella.generation.generator import load
from fabella.generation.sampling import SamplingParams
from fabella.runs import checkpoint
from fabella.runs.run_dir import RunDir
from fabella.training import api
from fabella.training.run import resume, start_run
from tests.training import tiny

STEPS = 15
# JAX compiles a step for each number of micro-batches, so that these tests use fewer than those of PyTorch.
SETTINGS = (
    "engine=jax",
    "model.layers=1",
    "training.gradient_accumulation=[[0, 2]]",
    "samples.max_tokens=4",
    "checkpoint.every_steps=5",
    "optimizer.average.kind=ema",
)
# Fifteen steps of AdamW from the same weights on the same data in both engines.
LOSS_TOLERANCE = 1e-4


class StopAt:
    """A callback that stops the run at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Any, result: Any) -> None:
        if progress.step == self.step:
            raise TrainingInterrupted(f"at step {progress.step}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_run(tiny.run(*SETTINGS, steps=STEPS), tmp_path_factory.mktemp("runs") / "straight", data).path


def final_losses(folder: Path) -> list[float]:
    """Return the losses of the weights and of their average at the end of a run."""
    losses = {row["kind"]: row["loss"] for row in tiny.metrics(folder)}
    return [losses["final"], losses["final_average"]]


def test_a_run_killed_and_resumed_ends_with_the_same_bits(
    finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):  # without saving: the run resumes from step 5
        start_run(tiny.run(*SETTINGS, steps=STEPS), out, data, callbacks=[StopAt(7)])
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)


def test_the_same_run_twice_has_the_same_bits(finished: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    second_run = start_run(tiny.run(*SETTINGS, steps=STEPS), tmp_path / "again", data).path
    assert tiny.fingerprint(second_run) == tiny.fingerprint(finished)


@pytest.mark.parametrize(("first_engine", "second_engine"), [("jax", "torch"), ("torch", "jax")])
def test_a_run_resumes_with_the_other_engine(
    first_engine: str, second_engine: str, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is that of a run with one engine. Without dropout, which the engines draw differently."""
    out, uninterrupted = tmp_path / "run", tmp_path / "straight"
    run = tiny.run(*SETTINGS, "model.dropout=0.0", f"engine={first_engine}", steps=STEPS)
    start_run(run, uninterrupted, data)
    with pytest.raises(TrainingInterrupted):
        start_run(run, out, data, callbacks=[StopAt(6)])
    api.resume(out, settings={"engine": second_engine})
    assert RunDir.open(out).run.engine == second_engine
    assert f"engine: '{first_engine}' → '{second_engine}'" in capsys.readouterr().err
    assert final_losses(out) == pytest.approx(final_losses(uninterrupted), rel=LOSS_TOLERANCE)


@pytest.mark.parametrize("kind", ["skip", "rollback"])
def test_a_run_with_a_non_finite_step_resumes_to_the_same_bits(
    kind: str, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch of step 7 has a NaN loss, also when it is repeated."""
    real_step_batch, nan_batches, batches = JaxEngine._step_batch, set[bytes](), list[bytes]()

    def step_batch_with_nan(self: JaxEngine, batch: Batch) -> Any:
        key = batch.tokens.tobytes()
        batches.append(key)
        nan_batches.update(batches[6:7])
        result = real_step_batch(self, batch)
        return result._replace(num_targets=result.num_targets * np.nan) if key in nan_batches else result

    monkeypatch.setattr(JaxEngine, "_step_batch", step_batch_with_nan)
    run = tiny.run(*SETTINGS, f"training.on_nonfinite.kind={kind}", steps=STEPS)
    uninterrupted = start_run(run, tmp_path / "straight", data).path
    with pytest.raises(TrainingInterrupted):
        start_run(run, tmp_path / "run", data, callbacks=[StopAt(9)])
    resume(tmp_path / "run")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)
    last = checkpoint.load(RunDir.open(uninterrupted), "latest").checkpoint.state.scalars
    num_skipped = 1 if kind == "skip" else 0
    assert (last["step"], last["updates"]) == (STEPS, STEPS - num_skipped)
    assert [row["failed"] for row in tiny.metrics(uninterrupted) if row["kind"] == "rollback"] == [7] * (
        1 - num_skipped
    )


def test_both_engines_generate_the_same_text_and_score_of_a_saved_run(finished: Path) -> None:
    greedy, text = SamplingParams(temperature=0.0), "Once upon a time there was a little dog. " * 3
    generators = [load(finished, engine=engine) for engine in ("torch", "jax")]
    completions = [
        [sequence.completion for sequence in generator.generate("Once", greedy, n=2, max_tokens=60)]
        for generator in generators
    ]
    assert completions[0] == completions[1]
    torch_score, jax_score = (generator.perplexity(text) for generator in generators)
    np.testing.assert_allclose(jax_score.nats, torch_score.nats, rtol=1e-4)


def test_both_engines_save_the_same_files(finished: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    other = start_run(tiny.run(*SETTINGS, "engine=torch", steps=STEPS), tmp_path / "torch", data).path
    states = [checkpoint.load(RunDir.open(folder), "latest").checkpoint.state for folder in (finished, other)]
    for part in ("weights", "average", "optimizer_state", "scalars"):
        assert list(getattr(states[0], part)) == list(getattr(states[1], part))
    rows = [[(row["kind"], row["step"], list(row)) for row in tiny.metrics(folder)] for folder in (finished, other)]
    assert rows[0] == rows[1]


WITHOUT_TORCH = """
import sys
from fabella.cli import main

sys.modules["torch"] = None
code = main.run(["train", "storybook-1m", "--engine", "jax", "--out", "run", "--json", "--devices", "2", *sys.argv[1:]])
assert code == 0, code
commands = (
    ["resume", "run", "--steps", "3"],
    ["generate", "run", "Once", "--max-tokens", "3"],
    ["perplexity", "run", "A"],
)
for words in commands:
    assert main.run(words) == 0, words
"""


def test_jax_training_needs_no_pytorch_and_uses_the_requested_devices(tmp_path: Path) -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    settings = [
        *tiny.SETTINGS,
        "model.layers=1",
        "training.gradient_accumulation=[[0, 1]]",
        "training.length.max_steps=2",
    ]
    settings += ["samples.every_steps=100", "model.dropout=0.0"]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *settings],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert json.JSONDecoder().raw_decode(process.stdout)[0]["steps"] == 2
    assert RunDir.open(tmp_path / "run").manifest["environment"]["parallel"] == "ddp, 2 devices"


WITHOUT_JAX = """
import sys
from fabella.cli import main

sys.modules["jax"] = None
assert main.run(["train", "storybook-1m", "--out", "run", *sys.argv[1:]]) == 0
"""


def test_jax_is_not_loaded_without_request(tmp_path: Path) -> None:
    settings = [*tiny.SETTINGS, "training.length.max_steps=2"]
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, *settings],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
