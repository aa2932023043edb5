"""Two processes train one model with JAX: what they say to each other, what they learn, and what if one is lost."""

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

TOGETHER = """
import sys
import numpy as np
from tests.engine.test_engine_jax import ACCUMULATION_TOLERANCE, batch, run, same, trained
from fabella.engine import engine as engines
from fabella.engine.engine import State
from fabella.engine.rank import current_rank

place, lines = current_rank(), []
with engines.init_distributed("jax", place, device="cpu") as ranks:
    ranks.init_collectives(60.0)
    hello = ranks.broadcast(f"hello from {place.rank}")
    lines.append(f"{hello} {[ranks.poll_max(vote) for vote in (place.rank, 0, 2 * place.rank, 0, 0)]}")
    for kind in ("ddp", "fsdp"):
        asked = run("model.dropout=0.2", "training.micro_batch_size=1", f"training.parallel.kind={kind}")
        straight = trained(engines.create_engine(asked, device="cpu", group=ranks), 0, 1)
        saved = straight.state()
        if place.is_main:
            np.savez("saved.npz", **saved.weights, **saved.optimizer_state)
        ranks.broadcast("saved")
        arrays = dict(np.load("saved.npz"))
        moments = {name: arrays.pop(name) for name in list(arrays) if name.startswith(("first.", "second."))}
        resumed = engines.create_engine(asked, device="cpu", group=ranks)
        resumed.restore(State(arrays, moments, saved.scalars))
        for engine in (straight, resumed):
            trained(engine, 2, 3)
        with straight.evaluating() as used:
            logits = used.model.forward(used.network, batch().tokens[:, :3])
        losses, bars = straight.losses(batch(5, windows=3)), len(straight.histograms())
        alone = trained(engines.create_engine(asked, device="cpu"), 0, 1, 2, 3)
        ours, theirs, expected = straight.state(), resumed.state(), alone.state()
        if place.is_main:
            far = max(np.abs(ours.weights[name] - array).max() for name, array in expected.weights.items())
            far = max(far, np.abs(losses - alone.losses(batch(5, windows=3))).max())
            near = "near" if far < ACCUMULATION_TOLERANCE else far
            lines.append(f"{straight.describe()['parallel']} {same(ours, theirs)} {near}")
        else:
            whole = bars == 2 * len(asked.model.parameters())
            lines.append(f"{len(ours.weights)} {len(ours.optimizer_state)} {whole} {logits.shape}")
for line in lines:
    print(line)
"""


def two(folder: Path, program: str, *words: str, devices: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """Both processes of ``program``, run to their ends."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    given = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": "2"}
    with reserved_port() as port:
        given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        begun = [
            subprocess.Popen(
                [sys.executable, "-c", program, *words], cwd=folder, env={**given, "RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ) for rank in range(2)
        ]  # fmt: skip
        ended = [(process, *process.communicate(timeout=600)) for process in begun]
    return [subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in ended]


def test_two_processes_learn_as_one_and_are_resumed_to_the_same_bits(tmp_path: Path) -> None:
    """Each with two devices. Whole weights on every device, and in shards that the other process holds."""
    first, second = two(tmp_path, TOGETHER, devices=2)
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

step, how, who, when = JaxEngine.step, sys.argv[1], sys.argv[2], int(sys.argv[3])
def taken(self, batch, lr):
    if self.steps == when and os.environ["RANK"] == who:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise StorageError("the disk has gone up in smoke.")
    return step(self, batch, lr)
JaxEngine.step = taken
sys.exit(main.run(["train", "storybook-1m", "--engine", "jax", "--out", "run", "--resume", *sys.argv[4:]]))
"""
SMALL = [*tiny.SETTINGS, "model.layers=1", "training.gradient_accumulation=[[0, 1]]", "training.length.max_steps=6"]
SMALL += ["checkpoint.every_steps=2", "samples.every_steps=100", "model.dropout=0.0"]


def test_where_a_process_is_killed_the_other_says_so_and_both_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    first, second = two(tmp_path, TRAIN, "killed", "1", "3", *SMALL)
    assert second.returncode == -9
    assert first.returncode == 6, first.stderr
    assert (
        "does not respond: killed, hanging, or its machine is down. Resume from the latest checkpoint" in first.stderr
    )
    first, second = two(tmp_path, TRAIN, "killed", "1", "99", *SMALL)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    folder = RunDir.open(tmp_path / "run")
    assert folder.manifest["environment"]["parallel"] == "ddp, 2 devices, 2 processes"
    assert [row["step"] for row in tiny.metrics(folder.path) if row["kind"] == "train"] == [1, 3, 6]


@pytest.mark.parametrize("failing", [0, 1])
def test_where_a_process_fails_both_say_why(tmp_path: Path, failing: int) -> None:
    ended = two(tmp_path, TRAIN, "fails", str(failing), "3", *SMALL)
    assert ended[failing].returncode == 4
    assert "the disk has gone up in smoke." in ended[failing].stderr
    other = ended[1 - failing]
    # One that waits for numbers of the first notices only that it has ended, with its service: JAX itself may then
    # abort it, in its own words, before or after it has said why.
    if failing == 0 and other.returncode == -6:
        assert "JAX distributed service detected fatal errors" in other.stderr
    else:
        assert other.returncode == 6, other.stderr
        assert f"Process {failing} of 2 has stopped: the disk has gone up in smoke." in other.stderr
