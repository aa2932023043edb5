"""Tests that a training that runs out of memory names a command that continues it, and that the command works."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from fabella.cli.main import run as command
from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import OutOfMemoryError
from fabella.models.parameters import count
from fabella.runs.run_dir import RunDir
from fabella.training.run import start_run
from fabella.training.setup.resolve_config import resolve_config
from tests.training import tiny

STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def fail_at_batches_of(monkeypatch: pytest.MonkeyPatch, largest: int, error: Exception) -> None:
    """Raise ``error`` in every forward pass of more than ``largest`` sequences."""
    step = TorchEngine.step

    def limited_step(self: TorchEngine, batch: Any, lr: float) -> Any:
        if self.micro_batch_size > largest:
            raise error
        return step(self, batch, lr)

    monkeypatch.setattr(TorchEngine, "step", limited_step)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_the_named_command_continues_with_the_same_global_batch(
    error: Exception, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_batches_of(monkeypatch, 2, error)
    run = tiny.run("training.micro_batch_size=4", "training.gradient_accumulation=[[0, 1], [4, 3]]", steps=STEPS)
    with pytest.raises(OutOfMemoryError, match="4 sequences") as caught:
        start_run(run, tmp_path / "a run", data, device="cpu")
    assert caught.value.exit_code == 7
    program, *words = shlex.split(caught.value.hint.partition(": ")[2])
    assert program == "fabella"
    assert command(words) == 0
    training = RunDir.open(tmp_path / "a run").run.training
    assert training.micro_batch_size == 2
    assert [list(entry) for entry in training.gradient_accumulation] == [[0, 2], [4, 6]]


def test_a_single_sequence_is_computed_with_checkpointing(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_batches_of(monkeypatch, 0, MemoryError())
    run = tiny.run("training.micro_batch_size=1", "training.gradient_accumulation=[[0, 1]]", steps=STEPS)
    with pytest.raises(OutOfMemoryError) as caught:
        start_run(run, tmp_path / "run", data, device="cpu")
    assert caught.value.hint.endswith("training.gradient_checkpointing=blocks")


def test_a_model_that_does_not_fit_is_named_with_its_size_before_anything_is_written(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("fabella.engine.engine.create_engine", fail)
    run = tiny.run(steps=STEPS)
    parameters = count(resolve_config(run, data).model.parameters())
    with pytest.raises(OutOfMemoryError, match=f"model with {parameters:,} parameters"):
        start_run(run, tmp_path / "run", data, device="cpu")
    assert not (tmp_path / "run").exists()


def test_another_error_stays_what_it_is(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_batches_of(monkeypatch, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        start_run(tiny.run(steps=STEPS), tmp_path / "run", data, device="cpu")
