"""What a training will take, told before it begins: memory by part, disk, steps, tokens and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fabella.config.training import Epochs, MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.data.loader import PREFETCH_BATCHES
from fabella.data.modes.mode import data_mode
from fabella.engine import engine as engines
from fabella.models.flops import flops_per_token, output_head_params
from fabella.models.parameters import count, count_non_embedding
from fabella.planning.memory import MemoryBudget
from fabella.planning.probe import ProbeLimits, ProbeResult, try_out
from fabella.run_config.run import RunConfig
from fabella.training.schedule import batch_size_at, sequences_before, steps_for_sequences
from fabella.training.setup.resolve_config import checkpoint_bytes

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
class RunLength:
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
class MeasuredSpeed:
    """Measured in a few real steps: seconds of each part of the run, and the memory that was taken at most."""

    trial: ProbeResult
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
class Estimate:
    """All of it; see each part."""

    parameters: int
    without_embeddings: int
    flops_per_token: int
    memory: Memory
    room: MemoryBudget
    length: RunLength
    disk: Disk
    pace: MeasuredSpeed | None

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
    run: RunConfig,
    prepared: TokenizedDataset | None,
    room: MemoryBudget,
    free_disk: int,
    given: ProbeLimits | None,
    *,
    saved: Sequence[int] = (),
) -> Estimate:
    """Everything about ``run``. ``prepared``: its data, if it is there. ``given``: how to measure; None: not at all.

    ``saved``: the steps whose checkpoints are there, where the run has begun.
    """
    device = given.device if given else "auto"
    table = run.model.parameters()
    length = replace(length_of(run, prepared), taken=max(saved, default=0))
    return Estimate(
        parameters=count(table),
        without_embeddings=count_non_embedding(table),
        flops_per_token=flops_per_token(run.model, run.data.sequences.length),
        memory=memory_of(run, device),
        room=room,
        length=length,
        disk=Disk(checkpoint_bytes(run), max(run.checkpoint.keep_last + CHECKPOINTS_MORE - len(saved), 1), free_disk),
        pace=pace_of(run, length, given) if given else None,
    )


def memory_of(run: RunConfig, device: str) -> Memory:
    """Estimated from the parameter table and one pass through the network without content."""
    table, training, engine = run.model.parameters(), run.training, engines.backend(run.engine, "measure.memory")
    weights = FLOAT * count(table)
    moments = checkpoint_bytes(run) - weights  # a checkpoint holds weights and moments
    heads = sum(table[name].size for name in output_head_params(table, run.model.vocab_size))
    window_bytes = 2 * FLOAT * run.data.sequences.length  # ids and targets
    most = max(batch_size_at(training, first) for first, _ in training.gradient_accumulation)
    return Memory(
        on_device={
            "weights": weights,
            "gradients": weights,
            "optimizer": moments,
            "activations": engine.activation_bytes(run, training.micro_batch_size, device),
            "head's gradient": FLOAT * heads,  # formed with the loss, and then added to the gradients
            "logits": engine.loss_bytes(run, training.micro_batch_size, device),
        },
        beside={
            "program": PROGRAM_BYTES,
            "batches in waiting": (PREFETCH_BATCHES + 1) * most * window_bytes,
            "snapshot while saving": weights + moments,
        },
    )


def length_of(run: RunConfig, prepared: TokenizedDataset | None) -> RunLength:
    """Steps, tokens and epochs, as far as they can be known: of a stream nobody knows how long it is."""
    training = run.training
    windows = data_mode(run.data.mode.kind).count_sequences(run.data, prepared) if prepared else None
    steps = None
    match training.length:
        case MaxSteps(max_steps=number):
            steps = number
        case Epochs(epochs=epochs) if windows:
            steps = steps_for_sequences(training, math.ceil(windows * epochs))
        case _:
            pass
    used = sequences_before(training, steps) if steps else None
    return RunLength(
        steps=steps,
        tokens=used * run.data.sequences.length if used else None,
        epochs=used / windows if used and windows else getattr(training.length, "epochs", None),
        windows_per_step=tuple((first, batch_size_at(training, first)) for first, _ in training.gradient_accumulation),
    )


def pace_of(run: RunConfig, length: RunLength, given: ProbeLimits) -> MeasuredSpeed:
    """Take a few steps in a child process, and reckon from them how long all will take."""
    several = any(number > 1 for _, number in run.training.gradient_accumulation)
    trial = try_out(run, run.training.micro_batch_size, given, (1, 2, 1) if several else (1, 1))
    if not trial.fits:
        return MeasuredSpeed(trial, 0.0, None)
    stages = _stages(run, length)
    usual = stages or [(1, run.training.gradient_accumulation[-1][1])]
    windows = sum(number * count * run.training.micro_batch_size for number, count in usual)
    speed = windows * run.data.sequences.length / _seconds(trial, usual)
    return MeasuredSpeed(trial, speed, _seconds(trial, stages) if length.steps else None)


def _seconds(trial: ProbeResult, stages: Sequence[tuple[int, int]]) -> float:
    return sum(number * (count * trial.seconds + trial.seconds_of_update) for number, count in stages)


def _stages(run: RunConfig, length: RunLength) -> list[tuple[int, int]]:
    """(steps to be taken, micro-batches in each) for every stretch of the accumulation; none where nothing is known."""
    pairs, steps = run.training.gradient_accumulation, length.steps or 0
    ends = [*(first for first, _ in pairs[1:]), steps]
    stretches = [
        (min(end, steps) - max(first, length.taken), number) for (first, number), end in zip(pairs, ends, strict=True)
    ]
    return [(stretch, number) for stretch, number in stretches if stretch > 0]


def disk_place(out: Path) -> Path:
    """The nearest folder of ``out`` that is there already: where its free space is measured."""
    return next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
