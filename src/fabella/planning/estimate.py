"""What a training will take, told before it begins: memory by part, disk, steps, tokens and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fabella.config.data import Streamed
from fabella.config.training import Epochs, Steps
from fabella.data.dataset import Prepared
from fabella.data.loader import AHEAD
from fabella.data.sequences import Windows
from fabella.engine import engine as engines
from fabella.models.flops import flops_per_token, head_names
from fabella.models.parameters import count, count_without_embeddings
from fabella.planning.memory import Room
from fabella.planning.probe import Conditions, Trial, try_out
from fabella.run_config.run import Run
from fabella.training.run import checkpoint_bytes
from fabella.training.schedule import steps_for, windows_at, windows_before

FLOAT = 4
PROGRAM_BYTES = 350_000_000
"""Python with PyTorch for CPUs and its kernels in use: measured with 2.13, 250 MB before and 350 MB after the first
step of a tiny model. With CUDA it is more."""
CHECKPOINTS_MORE = 3
"""Beside those kept: the best, the one being written, and after a resume the one that was gone on from."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part. ``on_device``: while a step is taken, on the GPU or the CPU; ``beside``: of the machine."""

    on_device: dict[str, int]
    beside: dict[str, int]


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is. None: not known before the data is prepared."""

    steps: int | None
    tokens: int | None
    """Targets, where windows are full; documents that end earlier have fewer."""
    epochs: float | None
    windows_per_step: tuple[tuple[int, int], ...]
    """[first step, windows] as the accumulation changes."""
    taken: int = 0
    """Of the steps: those that the newest checkpoint of a run holds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured in a few real steps: seconds of each part of the run, and the memory that was taken at most."""

    trial: Trial
    tokens_per_second: float
    """At the accumulation that most steps have."""
    seconds_left: float | None
    """For all steps that are not taken yet, without validation, samples and saving."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Checkpoints: bytes of one, how many more there may be at once, and what is free where they would lie."""

    checkpoint: int
    checkpoints: int
    free: int

    @property
    def needed(self) -> int:
        """For all checkpoints that may be there at once."""
        return self.checkpoint * self.checkpoints


@dataclass(frozen=True, slots=True)
class Forecast:
    """All of it; see each part."""

    parameters: int
    without_embeddings: int
    flops_per_token: int
    memory: Memory
    room: Room
    length: Length
    disk: Disk
    pace: Pace | None

    @property
    def memory_needed(self) -> int:
        """Of the memory that ``room`` is: what was measured counts, the estimate only where nothing was measured."""
        beside = 0 if self.on_gpu else sum(self.memory.beside.values())
        measured = self.pace.trial.peak_bytes if self.pace and self.pace.trial.fits else 0
        program = self.memory.beside["program"] if not self.on_gpu else 0
        return measured + beside - program if measured else sum(self.memory.on_device.values()) + beside

    @property
    def on_gpu(self) -> bool:
        """Whether the model lies in another memory than the program."""
        return "GPU" in self.room.where

    @property
    def fits_memory(self) -> bool:
        """False, too, where the trial itself did not fit."""
        return self.memory_needed <= self.room.free and not (self.pace and not self.pace.trial.fits)

    @property
    def fits_disk(self) -> bool:
        """As ``train`` asks before its first step."""
        return self.disk.needed <= self.disk.free


def forecast(
    run: Run,
    prepared: Prepared | None,
    room: Room,
    free_disk: int,
    given: Conditions | None,
    *,
    saved: Sequence[int] = (),
) -> Forecast:
    """Everything about ``run``. ``prepared``: its data, if it is there. ``given``: how to measure; None: not at all.

    ``saved``: the steps whose checkpoints are there, where the run has begun.
    """
    device = given.device if given else "auto"
    table = run.model.parameters()
    length = replace(length_of(run, prepared), taken=max(saved, default=0))
    return Forecast(
        parameters=count(table),
        without_embeddings=count_without_embeddings(table),
        flops_per_token=flops_per_token(run.model, run.data.windows.length),
        memory=memory_of(run, device),
        room=room,
        length=length,
        disk=Disk(checkpoint_bytes(run), max(run.checkpoint.keep + CHECKPOINTS_MORE - len(saved), 1), free_disk),
        pace=pace_of(run, length, given) if given else None,
    )


def memory_of(run: Run, device: str) -> Memory:
    """Estimated from the parameter table and one pass through the network without content."""
    table, training, engine = run.model.parameters(), run.training, engines.load(run.engine, "measure.memory")
    weights = FLOAT * count(table)
    moments = checkpoint_bytes(run) - weights  # a checkpoint holds weights and moments
    heads = sum(table[name].size for name in head_names(table, run.model.vocabulary))
    window_bytes = 2 * FLOAT * run.data.windows.length  # ids and targets
    most = max(windows_at(training, first) for first, _ in training.accumulation)
    return Memory(
        on_device={
            "weights": weights,
            "gradients": weights,
            "optimizer": moments,
            "activations": engine.activation_bytes(run, training.micro_batch, device),
            "head's gradient": FLOAT * heads,  # formed with the loss, and then added to the gradients
            "logits": engine.loss_bytes(run, training.micro_batch, device),
        },
        beside={
            "program": PROGRAM_BYTES,
            "batches in waiting": (AHEAD + 1) * most * window_bytes,
            "snapshot while saving": weights + moments,
        },
    )


def length_of(run: Run, prepared: Prepared | None) -> Length:
    """Steps, tokens and epochs, as far as they can be known: of a stream nobody knows how long it is."""
    training, windows = run.training, None
    if prepared and not isinstance(run.data.reading, Streamed):
        windows = len(Windows(prepared.train, run.data.windows, prepared.tokenizer.end))
    steps = None
    match training.length:
        case Steps(steps=number):
            steps = number
        case Epochs(epochs=epochs) if windows:
            steps = steps_for(training, math.ceil(windows * epochs))
        case _:
            pass
    used = windows_before(training, steps) if steps else None
    return Length(
        steps=steps,
        tokens=used * run.data.windows.length if used else None,
        epochs=used / windows if used and windows else getattr(training.length, "epochs", None),
        windows_per_step=tuple((first, windows_at(training, first)) for first, _ in training.accumulation),
    )


def pace_of(run: Run, length: Length, given: Conditions) -> Pace:
    """Take a few steps in a child process, and reckon from them how long all will take."""
    several = any(number > 1 for _, number in run.training.accumulation)
    trial = try_out(run, run.training.micro_batch, given, (1, 2, 1) if several else (1, 1))
    if not trial.fits:
        return Pace(trial, 0.0, None)
    stages = _stages(run, length)
    usual = stages or [(1, run.training.accumulation[-1][1])]
    windows = sum(number * count * run.training.micro_batch for number, count in usual)
    speed = windows * run.data.windows.length / _seconds(trial, usual)
    return Pace(trial, speed, _seconds(trial, stages) if length.steps else None)


def _seconds(trial: Trial, stages: Sequence[tuple[int, int]]) -> float:
    return sum(number * (count * trial.seconds + trial.seconds_of_update) for number, count in stages)


def _stages(run: Run, length: Length) -> list[tuple[int, int]]:
    """(steps to be taken, micro-batches in each) for every stretch of the accumulation; none where nothing is known."""
    pairs, steps = run.training.accumulation, length.steps or 0
    ends = [*(first for first, _ in pairs[1:]), steps]
    stretches = [
        (min(end, steps) - max(first, length.taken), number) for (first, number), end in zip(pairs, ends, strict=True)
    ]
    return [(stretch, number) for stretch, number in stretches if stretch > 0]


def disk_place(out: Path) -> Path:
    """The nearest folder of ``out`` that is there already: where its free space is measured."""
    return next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
