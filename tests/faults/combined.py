"""A run that uses most features at once, on one rank or several, and functions that remove parts of its saved state.

The run changes its gradient accumulation, streams a mixture, trains in half precision with a loss scale that overflows
and grows, and has dropout, Muon next to AdamW, an average of the weights, a learning-rate schedule, clipping,
validation, samples and checkpoints.
"""

import dataclasses
import json
import os
import signal
import zlib
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from fabella.cli.main import run_with_error_codes
from fabella.data.batches import Batch
from fabella.data.dataset import open_dataset
from fabella.engine import device_torch, engine_torch
from fabella.engine.engine import StepResult
from fabella.engine.engine_torch import TorchEngine
from fabella.engine.rank import current_rank
from fabella.models.parameters import initial_weights
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, load, save
from fabella.runs.run_dir import RunDir, step_name
from fabella.training import distributed_run, eval_loss
from fabella.training import run as training_run
from fabella.training.eval_loss import EvalLoss, validate
from fabella.training.loop import Progress
from tests.data.samples import lines, words
from tests.training import tiny

STEPS, KILL_STEP, DAMAGED_STEP = 12, 10, 6
"""Steps of the run; the step after which it is killed; the checkpoint from which parts are removed. That checkpoint is
on disk before the next one is written, hence before the kill."""
BEST_STEP = 4
"""The step with the lowest validation loss."""
MARK, SECONDS = "FABELLA_TEST_RUN", 30.0
"""Environment variable that marks the child processes of a run; seconds within which they must exit."""

STREAMED = (
    "data.mode={kind: streaming, document_shuffle_buffer: 6, sequence_shuffle_buffer: 5, tokenizer_sample_bytes: 20000}"
)
SETTINGS = [
    "model.dropout=0.2",
    "training.gradient_accumulation=[[0, 2], [5, 3], [8, 4]]", "training.log_every_steps=1",
    "training.precision={kind: fp16, initial_loss_scale: 2097152, loss_scale_growth_interval: 5}",
    "training.on_nonfinite.kind=skip",
    "training.parallel.timeout_seconds=30",
    "optimizer={kind: muon, lr: 0.02, schedule: [{shape: linear, start: 0.1, end: 1.0, length: 60%},"
    " {shape: cosine, start: 1.0, end: 0.1, length: 40%}], average: {kind: mean, start: 3}}",
    "checkpoint.every_steps=3", "checkpoint.keep_last=100", "validation.every_steps=2",
    "validation.early_stopping_patience=50", "samples.every_steps=5",
]  # fmt: skip


def run(path: Path) -> RunConfig:
    return streamed(path, *SETTINGS)


def streamed(path: Path, *settings: str) -> RunConfig:
    """Return the config of a tiny run that streams a mixture of a text and stories, each for several epochs."""
    text = lines(path / "mine.txt", [f"Tale {number}. {words(number, 30)}" for number in range(60)])
    parts = [
        {"weight": 2.0, "source": text.model_dump(mode="json")},
        {"weight": 1.0, "source": {"kind": "storybook", "stories": 4}},
    ]
    source = f"data.source={json.dumps({'kind': 'mixture', 'parts': parts})}"
    return tiny.run(STREAMED, source, *settings, steps=STEPS)


def half_precision(_requested: Any, device: torch.device, *_others: Any, **_more: Any) -> device_torch.Precision:
    """Return fp16 with loss scaling on any device; PyTorch supports it on a CPU, only slower."""
    return device_torch.Precision(torch.float16, scaled=True, device=device)


def worsening_loss(engine: Any, *others: Any, **more: Any) -> EvalLoss:
    """Return the validation loss, raised after step BEST_STEP so that it stays the best step."""
    score = validate(engine, *others, **more)
    return dataclasses.replace(score, loss=score.loss + max(engine.steps - BEST_STEP, 0))


# ---------------------------------------------------------------- processes of the run


def work(jobs: list[dict[str, Any]]) -> int:
    """Run each job in turn: start ``out`` from ``run``, or resume it, and kill the last rank after step ``kill``.

    ``half`` trains in half precision. Each rank writes the sequences it trained on to ``OUT.RANK.rows``.
    """
    torch.set_num_threads(1)
    real_precision, real_step = engine_torch.resolve_precision, TorchEngine.step
    real_start, real_resume = training_run.start_run, training_run.resume
    for number, job in enumerate(jobs):
        # A new restart count, so that a rank does not read messages of the previous job.
        rank = dataclasses.replace(current_rank(), restart_count=number)
        eval_loss.validate = worsening_loss
        engine_torch.resolve_precision = half_precision if job["half"] else real_precision
        TorchEngine.step = partialmethod(_logged_step, real_step, Path(f"{job['out']}.{rank.rank}.rows"))
        kill = partial(kill_at, job["kill"], rank.rank == rank.world_size - 1)
        training_run.start_run, training_run.resume = (
            partial(function, callbacks=[kill]) for function in (real_start, real_resume)
        )
        with Path(f"{job['out']}.{rank.rank}.log").open("wb") as log:
            os.dup2(log.fileno(), 2)
        os.environ[MARK] = job["out"]
        Path(f"{job['out']}.{rank.rank}.pid").write_text(str(os.getpid()))
        decide = partial(_decide, job)
        try:
            code = run_with_error_codes(
                lambda decide=decide, rank=rank: distributed_run.run_distributed(rank, decide, device="cpu")
            )
        except SystemExit as error:  # rank 0 prints the error; the next job starts in this process
            code = error.code
        Path(f"{job['out']}.{rank.rank}.code").write_text(str(code))
    return 0


def _decide(job: dict[str, Any]) -> distributed_run.LaunchPlan:
    out, data = Path(job["out"]), Path(job["data"])
    config = RunConfig.model_validate(job["run"])
    if out.exists():
        return distributed_run.LaunchPlan(RunDir.open(out).run, out, data, resume=True)
    return distributed_run.start_or_resume(lambda _: config, out, lambda: open_dataset(data), moved=data)


def _logged_step(engine: TorchEngine, step: Any, file: Path, batch: Batch, lr: float) -> StepResult:
    """Run the step, and append a checksum of each sequence that this rank trains on to ``file``."""
    local_rows = engine.strategy.local_rows(len(batch.tokens))
    checksums = [zlib.crc32(batch.tokens[row].tobytes() + batch.targets[row].tobytes()) for row in local_rows]
    with file.open("a") as log:
        log.write(json.dumps([engine.steps + 1, checksums]) + "\n")
    return step(engine, batch, lr)


def kill_at(step: int, is_victim: bool, progress: Progress, result: StepResult) -> None:
    if is_victim and progress.step == step:
        os.kill(os.getpid(), signal.SIGKILL)


def surviving_processes(out: Path) -> list[psutil.Process]:
    """Return the ranks of the run and their reader processes that have not exited within ``SECONDS``."""
    pids = {int(file.read_text()) for file in out.parent.glob(f"{out.name}.*.pid")}
    alive = [process for process in psutil.process_iter() if process.pid in pids or _marked(process, out)]
    return psutil.wait_procs(alive, timeout=SECONDS)[1]


def _marked(process: psutil.Process, out: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(out)
    except psutil.Error:  # it has exited, or belongs to another user
        return False


# ---------------------------------------------------------------- parts of the saved state


def parts(path: Path) -> list[str]:
    """Return the name of each part of the saved state, read from the checkpoint so that new parts are included."""
    saved = load(RunDir.open(path), DAMAGED_STEP).checkpoint
    kinds = sorted({name.partition(".")[0] for name in saved.state.optimizer_state})
    return ["weights", "average", *kinds, *(f"numbers.{name}" for name in saved.state.scalars), *(
        f"progress.{name}" for name in saved.progress
    )]  # fmt: skip


def remove_part(path: Path, part: str) -> None:
    """Reset the run to its checkpoint of step DAMAGED_STEP, without ``part``; ``""`` removes nothing."""
    run_folder = RunDir.open(path)
    saved = load(run_folder, DAMAGED_STEP).checkpoint
    state, progress = saved.state, dict(saved.progress)
    kind, _, name = part.partition(".")
    if part == "weights":
        state = dataclasses.replace(state, weights=initial_weights(run_folder.run.model.parameters(), 1))
    elif part == "average":
        zeros = {key: np.zeros_like(array) for key, array in state.average.items()}
        state = dataclasses.replace(state, average=zeros)
    elif part == "numbers.averaged":  # an average of no weights is not saved
        kept = {key: n for key, n in state.scalars.items() if key != name}
        state = dataclasses.replace(state, scalars=kept, average={})
    elif kind == "numbers":
        state = dataclasses.replace(state, scalars={key: n for key, n in state.scalars.items() if key != name})
    elif kind == "progress":
        progress = {key: value for key, value in progress.items() if key != name}
    elif part:
        empty = {key: np.zeros_like(a) if key.startswith(f"{part}.") else a for key, a in state.optimizer_state.items()}
        state = dataclasses.replace(state, optimizer_state=empty)
    for later in [step for step in run_folder.steps() if step > DAMAGED_STEP]:
        (run_folder.checkpoints / step_name(later)).rename(path / f"not-reached-{later}")
    save(run_folder, DAMAGED_STEP, Checkpoint(state, progress))
