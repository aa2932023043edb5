"""A run with everything on at once, by one process or several, and what becomes of it where part of its state is lost.

Accumulation that changes, a mixture that is streamed, half precision with a loss scale that overflows and grows,
dropout, Muon beside AdamW, a schedule of the learning rate, clipping, validation, samples, saving.
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

STEPS, KILLED, SPOILED = 12, 10, 6
"""Steps of the run; the one it is killed after; that of the checkpoint that parts are taken from, which is on disk
before the next is written, and so before the kill."""
BEST = 4
"""The step of the best score."""
MARK, SECONDS = "FABELLA_TEST_RUN", 30.0
"""Environment of the processes that a process of the run starts; a bound for their ends."""

STREAMED = (
    "data.mode={kind: streaming, document_shuffle_buffer: 6, sequence_shuffle_buffer: 5, tokenizer_sample_bytes: 20000}"
)
SETTINGS = [
    "model.dropout=0.2",
    "training.gradient_accumulation=[[0, 2], [5, 3], [8, 4]]", "training.log_every_steps=1",
    "training.precision={kind: fp16, initial_loss_scale: 4194304, loss_scale_growth_interval: 2}",
    "training.on_nonfinite.kind=skip",
    "training.parallel.timeout_seconds=30",
    "optimizer={kind: muon, lr: 0.02, schedule: [{shape: linear, start: 0.1, end: 1.0, length: 60%},"
    " {shape: cosine, start: 1.0, end: 0.1, length: 40%}]}",
    "checkpoint.every_steps=3", "checkpoint.keep_last=100", "validation.every_steps=2",
    "validation.early_stopping_patience=50", "samples.every_steps=5",
]  # fmt: skip


def run(folder: Path) -> RunConfig:
    return streamed(folder, *SETTINGS)


def streamed(folder: Path, *settings: str) -> RunConfig:
    """A tiny run on a mixture of a text and stories, neither prepared, each of which comes to several epochs."""
    text = lines(folder / "mine.txt", [f"Tale {number}. {words(number, 30)}" for number in range(60)])
    parts = [
        {"weight": 2.0, "source": text.model_dump(mode="json")},
        {"weight": 1.0, "source": {"kind": "storybook", "stories": 4}},
    ]
    source = f"data.source={json.dumps({'kind': 'mixture', 'parts': parts})}"
    return tiny.run(STREAMED, source, *settings, steps=STEPS)


def half_precision(asked: Any, device: torch.device) -> device_torch.Precision:
    """On a CPU too: PyTorch has it there, only slower."""
    return device_torch.Precision(torch.float16, scaled=True, device=device)


def worsening_loss(engine: Any, *others: Any) -> EvalLoss:
    """The score of a model that learns by heart: after step BEST no other is as good."""
    score = validate(engine, *others)
    return dataclasses.replace(score, loss=score.loss + max(engine.steps - BEST, 0))


# ---------------------------------------------------------------- its processes


def work(jobs: list[dict[str, Any]]) -> int:
    """Each job after the other: ``out`` begun from ``run``, or gone on with; killed after step ``kill``, if any.

    With ``half`` in half precision. What each process learned from is told in ``OUT.RANK.rows``.
    """
    torch.set_num_threads(1)
    whole_precision, whole_step = engine_torch.resolve_precision, TorchEngine.step
    begin, go_on = training_run.start_run, training_run.resume
    for number, job in enumerate(jobs):
        # Another life: what the processes told each other in the job before is not heard in this one.
        place = dataclasses.replace(current_rank(), restart_count=number)
        eval_loss.validate = worsening_loss
        engine_torch.resolve_precision = half_precision if job["half"] else whole_precision
        TorchEngine.step = partialmethod(_told, whole_step, Path(f"{job['out']}.{place.rank}.rows"))
        strike = partial(kill_at, job["kill"], place.rank == place.world_size - 1)
        training_run.start_run, training_run.resume = (partial(verb, callbacks=[strike]) for verb in (begin, go_on))
        with Path(f"{job['out']}.{place.rank}.log").open("wb") as log:
            os.dup2(log.fileno(), 2)
        os.environ[MARK] = job["out"]
        Path(f"{job['out']}.{place.rank}.pid").write_text(str(os.getpid()))
        decide = partial(_decide, job)
        code = run_with_error_codes(
            lambda decide=decide, place=place: distributed_run.run_distributed(place, decide, device="cpu")
        )
        Path(f"{job['out']}.{place.rank}.code").write_text(str(code))
    return 0


def _decide(job: dict[str, Any]) -> distributed_run.LaunchPlan:
    out, data = Path(job["out"]), Path(job["data"])
    of = RunConfig.model_validate(job["run"])
    if out.exists():
        return distributed_run.LaunchPlan(RunDir.open(out).run, out, data, resume=True)
    return distributed_run.start_or_resume(of, out, open_dataset(data))


def _told(engine: TorchEngine, step: Any, file: Path, batch: Batch, lr: float) -> StepResult:
    """Take the step; the windows of it that this process learns from, as one number each, become a line of ``file``."""
    mine = engine.strategy.local_rows(len(batch.tokens))
    windows = [zlib.crc32(batch.tokens[row].tobytes() + batch.targets[row].tobytes()) for row in mine]
    with file.open("a") as told:
        told.write(json.dumps([engine.steps + 1, windows]) + "\n")
    return step(engine, batch, lr)


def kill_at(step: int, this_one: bool, progress: Progress, result: StepResult) -> None:
    if this_one and progress.step == step:
        os.kill(os.getpid(), signal.SIGKILL)


def surviving_processes(out: Path) -> list[psutil.Process]:
    """Processes of the run, and those that read for them, which have not ended when ``SECONDS`` are over."""
    pids = {int(file.read_text()) for file in out.parent.glob(f"{out.name}.*.pid")}
    living = [process for process in psutil.process_iter() if process.pid in pids or _marked(process, out)]
    return psutil.wait_procs(living, timeout=SECONDS)[1]


def _marked(process: psutil.Process, out: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(out)
    except psutil.Error:  # it has ended, or is another user's
        return False


# ---------------------------------------------------------------- parts of its state


def parts(folder: Path) -> list[str]:
    """Every part of the state that the checkpoint holds; a part of a later Fabella is one of them by itself."""
    saved = load(RunDir.open(folder), SPOILED).checkpoint
    kinds = sorted({name.partition(".")[0] for name in saved.state.optimizer_state})
    return ["weights", *kinds, *(f"numbers.{name}" for name in saved.state.scalars), *(
        f"progress.{name}" for name in saved.progress
    )]  # fmt: skip


def remove_part(folder: Path, part: str) -> None:
    """Let the run stand at its checkpoint, with one part of that as if it had never been saved; none for ``""``."""
    run_folder = RunDir.open(folder)
    saved = load(run_folder, SPOILED).checkpoint
    state, progress = saved.state, dict(saved.progress)
    kind, _, name = part.partition(".")
    if part == "weights":
        state = dataclasses.replace(state, weights=initial_weights(run_folder.run.model.parameters(), 1))
    elif kind == "numbers":
        state = dataclasses.replace(state, scalars={key: n for key, n in state.scalars.items() if key != name})
    elif kind == "progress":
        progress = {key: value for key, value in progress.items() if key != name}
    elif part:
        empty = {key: np.zeros_like(a) if key.startswith(f"{part}.") else a for key, a in state.optimizer_state.items()}
        state = dataclasses.replace(state, optimizer_state=empty)
    for later in [step for step in run_folder.steps() if step > SPOILED]:
        (run_folder.checkpoints / step_name(later)).rename(folder / f"not-reached-{later}")
    save(run_folder, SPOILED, Checkpoint(state, progress))
