"""Train a run in several processes, with a failure of one of them at a given step.

python -m tests.training.rank_work JSON           one process, whose rank is in the environment
python -m tests.training.rank_work NUMBER JSON    a launcher of NUMBER processes
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fabella.cli.main import run_with_error_codes
from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.engine.distributed.launcher_torch import launch
from fabella.engine.engine import StepResult
from fabella.engine.engine_torch import TorchEngine
from fabella.engine.rank import RankInfo, current_rank
from fabella.errors import DiskFullError
from fabella.run_config.run import RunConfig
from fabella.runs.branch import load_initial_weights
from fabella.tracking.console import print_status
from fabella.training import distributed_run, fit
from fabella.training import run as training_run
from fabella.training.data_source import batches_from
from fabella.training.loop import Progress
from tests.training import tiny

NEXT_BATCH_FAILS = ("no batch comes", "batches end")
"""Failures that begin at the next batch."""
step = TorchEngine.step


class Failure:
    """A callback that sends a signal or fails at one step of one rank, but not again after a restart."""

    def __init__(self, rank_info: RankInfo, step: int, rank: int, what: str) -> None:
        self.rank_info, self.step, self.rank, self.what = rank_info, step, rank, what
        self.triggered = False
        self.model = torch.nn.Module()
        """Model of the engine, set at its first step."""

    def fed(self, run: RunConfig, data: TokenizedDataset, progress: Progress) -> Generator[Batch]:
        """Yield the batches of a run. After the failing step, block or end."""
        with closing(batches_from(run, data, progress)) as batches:
            for batch in batches:
                if self.triggered and self.what == "no batch comes":
                    threading.Event().wait()
                if self.triggered and self.what == "batches end":
                    return
                yield batch

    def make_nan(self, gradient: Tensor) -> Tensor:
        """Make a local gradient NaN."""
        return gradient * torch.nan

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if (progress.step, self.rank_info.rank) != (self.step, self.rank) or self.rank_info.restart_count:
            return
        if self.what == "full disk":
            raise DiskFullError("disk full: nothing free.")
        if self.what == "bug":
            raise ZeroDivisionError("a bug")
        if self.what == "NaN":  # on this rank only, before the all-reduce
            for parameter in self.model.parameters():
                parameter.register_hook(self.make_nan)
            return
        if self.what in NEXT_BATCH_FAILS:
            self.triggered = True
            return
        if self.what == "kill the launcher":
            os.kill(int(os.environ["LAUNCHER"]), signal.SIGKILL)
            return
        os.kill(os.getpid(), signal.Signals[self.what])


def train(values: dict[str, Any]) -> None:
    """Train or resume a tiny run in ``out`` on the dataset ``prepared``; ``failure`` = [step, rank, what]."""
    torch.set_num_threads(1)
    rank_info = current_rank()
    out, data = Path(values["out"]), Path(values["prepared"])
    run = tiny.run(*values["overrides"], steps=values["steps"])
    failure = Failure(rank_info, *values["failure"]) if values["failure"] else None
    if failure:  # the command line has no option for callbacks
        training_run.start_run = partial(training_run.start_run, callbacks=[failure])
        training_run.resume = partial(training_run.resume, callbacks=[failure])
        fit.batches_from = failure.fed

        def step_with_model(engine: TorchEngine, batch: Batch, lr: float) -> StepResult:
            failure.model = engine.model
            return step(engine, batch, lr)

        pytest.MonkeyPatch().setattr(TorchEngine, "step", step_with_model)

    def decide() -> distributed_run.LaunchPlan:
        initial = load_initial_weights(Path(values["init_from"])) if values.get("init_from") else None
        return distributed_run.start_or_resume(
            lambda _: run, out, lambda: open_dataset(data), moved=data, initial=initial
        )

    distributed_run.run_distributed(rank_info, decide, device="cpu")


def work(values: dict[str, Any]) -> int:
    """``train``, with the exit code of the command line; standard error goes to ``OUT.RANK.log``."""
    with Path(f"{values['out']}.{current_rank().rank}.log").open("wb") as log:
        os.dup2(log.fileno(), 2)
    print_status(f"{os.getpid()}")
    return run_with_error_codes(lambda: train(values))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.exit(work(json.loads(sys.argv[1])))
    os.environ["LAUNCHER"] = str(os.getpid())
    sys.exit(launch(int(sys.argv[1]), work, json.loads(sys.argv[2])))
