"""Tests of JAX training on two processes: collectives, equal weights, and the errors when one process fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.engine.engine import init_distributed
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError
from fabella.runs.run_dir import RunDir
from tests.processes import reserved_port
from tests.training import tiny

DISTRIBUTED = """
import sys
import numpy as np
from tests.engine.test_engine_jax import ACCUMULATION_TOLERANCE, batch, run, equal_states, train
from fabella.engine import engine as engines
from fabella.engine.engine import State
from fabella.engine.rank import current_rank

rank_info, lines = current_rank(), []
with engines.init_distributed("jax", rank_info, device="cpu") as group:
    group.init_collectives(60.0)
    hello = group.broadcast(f"hello from {rank_info.rank}")
    lines.append(f"{hello} {[group.poll_max(vote) for vote in (rank_info.rank, 0, 2 * rank_info.rank, 0, 0)]}")
    for kind in ("ddp", "fsdp"):
        settings = "model.dropout=0.2", "training.micro_batch_size=1", "optimizer.average.kind=ema"
        config = run(*settings, f"training.parallel.kind={kind}")
        uninterrupted = train(engines.create_engine(config, device="cpu", group=group), 0, 1)
        saved = uninterrupted.state()
        if rank_info.is_main:
            averages = {f"average.{name}": array for name, array in saved.average.items()}
            np.savez("saved.npz", **saved.weights, **saved.optimizer_state, **averages)
        group.broadcast("saved")
        arrays = dict(np.load("saved.npz"))
        moments = {name: arrays.pop(name) for name in list(arrays) if name.startswith(("first.", "second."))}
        resumed = engines.create_engine(config, device="cpu", group=group)
        average = {name: arrays.pop(f"average.{name}") for name in config.model.parameters()}
        resumed.restore(State(arrays, moments, saved.scalars, average))
        for engine in (uninterrupted, resumed):
            train(engine, 2, 3)
        with uninterrupted.evaluating() as evaluated:
            logits = evaluated.model.forward(evaluated.network, batch().tokens[:, :3])
        losses, num_histograms = uninterrupted.losses(batch(5, num_sequences=3)), len(uninterrupted.histograms())
        single = train(engines.create_engine(config, device="cpu"), 0, 1, 2, 3)
        actual, restored, expected = uninterrupted.state(), resumed.state(), single.state()
        if rank_info.is_main:
            difference = max(np.abs(actual.weights[name] - array).max() for name, array in expected.weights.items())
            difference = max(difference, *(np.abs(actual.average[n] - a).max() for n, a in expected.average.items()))
            difference = max(difference, np.abs(losses - single.losses(batch(5, num_sequences=3))).max())
            result = "near" if difference < ACCUMULATION_TOLERANCE else difference
            lines.append(f"{uninterrupted.describe()['parallel']} {equal_states(actual, restored)} {result}")
        else:
            complete = num_histograms == 2 * len(config.model.parameters())
            lines.append(f"{len(actual.weights)} {len(actual.optimizer_state)} {complete} {logits.shape}")
for line in lines:
    print(line)
"""


def run_two(folder: Path, program: str, *arguments: str, devices: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """Run ``program`` in two processes and wait until both have exited."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": "2"}
    with reserved_port() as port:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, *arguments], cwd=folder, env={**environment, "RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ) for rank in range(2)
        ]  # fmt: skip
        results = [(process, *process.communicate(timeout=600)) for process in processes]
    return [subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in results]


def test_two_processes_train_like_one_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    """Each process has two devices. DDP replicates the weights; FSDP shards them over both processes."""
    first, second = run_two(tmp_path, DISTRIBUTED, devices=2)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.splitlines() == [
        "hello from 0 [0, 1, 0, 2, 0]",
        "ddp, 4 devices, 2 processes True near",
        "fsdp, 4 devices, 2 processes True near",
    ]
    assert second.stdout.splitlines() == ["hello from 0 [0, 1, 0, 2, 0]", *["0 0 True (8, 3, 64)"] * 2]


def test_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with (
        pytest.raises(ConfigError, match=r"torchrun occupies MASTER_PORT.* one process per machine"),
        init_distributed("jax", RankInfo(0, 2), device="cpu"),
    ):
        pass


TRAIN = """
import os, signal, sys
from fabella.cli import main
from fabella.engine.engine_jax import JaxEngine
from fabella.errors import StorageError

step, failure, failing_rank, failing_step = JaxEngine.step, sys.argv[1], sys.argv[2], int(sys.argv[3])
def failing(self, batch, lr):
    if self.steps == failing_step and os.environ["RANK"] == failing_rank:
        if failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise StorageError("the disk has gone up in smoke.")
    return step(self, batch, lr)
JaxEngine.step = failing
sys.exit(main.run(["train", "storybook-1m", "--engine", "jax", "--out", "run", "--resume", *sys.argv[4:]]))
"""
SMALL = [*tiny.SETTINGS, "model.layers=1", "training.gradient_accumulation=[[0, 1]]", "training.length.max_steps=6"]
SMALL += ["checkpoint.every_steps=2", "samples.every_steps=100", "model.dropout=0.0"]


def test_a_killed_process_is_reported_by_the_other_and_both_resume_from_the_checkpoint(tmp_path: Path) -> None:
    first, second = run_two(tmp_path, TRAIN, "killed", "1", "3", *SMALL)
    assert second.returncode == -9
    assert first.returncode == 6, first.stderr
    assert (
        "does not respond: killed, hanging, or its machine is down. Resume from the latest checkpoint" in first.stderr
    )
    first, second = run_two(tmp_path, TRAIN, "killed", "1", "99", *SMALL)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    folder = RunDir.open(tmp_path / "run")
    assert folder.manifest["environment"]["parallel"] == "ddp, 2 devices, 2 processes"
    assert [row["step"] for row in tiny.metrics(folder.path) if row["kind"] == "train"] == [1, 3, 6]


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_a_failing_process_is_printed_by_both(tmp_path: Path, failing: int) -> None:
    results = run_two(tmp_path, TRAIN, "fails", str(failing), "3", *SMALL)
    assert results[failing].returncode == 4
    assert "the disk has gone up in smoke." in results[failing].stderr
    other = results[1 - failing]
    # If rank 0 fails, its distributed service ends with it. JAX may then abort rank 1 with a message of its own,
    # before or after rank 1 has printed the reason.
    if failing == 0 and other.returncode == -6:
        assert "JAX distributed service detected fatal errors" in other.stderr
    else:
        assert other.returncode == 6, other.stderr
        assert f"Process {failing} of 2 has stopped: the disk has gone up in smoke." in other.stderr
