"""Estimate of a run before it starts: memory by part, disk space, steps, tokens and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fabella.config.training import Epochs, MaxSteps, MaxTokens
from fabella.data.dataset import TokenizedDataset
from fabella.data.loader import PREFETCH_BATCHES
from fabella.data.modes.mode import data_mode
from fabella.engine import engine as engines
from fabella.models.flops import flops_per_token, output_head_params
from fabella.models.parameters import count, count_non_embedding
from fabella.planning.memory import MemoryBudget
from fabella.planning.probe import ProbeLimits, ProbeResult, probe_batch_size
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import max_checkpoints
from fabella.training.schedule import batch_size_at, sequences_before, steps_for_sequences
from fabella.training.setup.resolve_config import average_bytes, checkpoint_bytes

FLOAT_BYTES = 4
PROGRAM_BYTES = 350_000_000
"""Memory of Python with PyTorch on a CPU, measured with 2.13: 250 MB before and 350 MB after the first step of a tiny
model. With CUDA it is more."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by part: on the GPU or the CPU during a step, and of the host for everything else."""

    on_device: dict[str, int]
    host: dict[str, int]


@dataclass(frozen=True, slots=True)
class RunLength:
    """Length of a run. None: unknown before the data is prepared."""

    steps: int | None
    tokens: int | None
    """Targets of full sequences; padded ones have fewer."""
    epochs: float | None
    sequences_per_step: tuple[tuple[int, int], ...]
    """[first step, sequences] for each change of the gradient accumulation."""
    taken: int = 0
    """Steps of the last checkpoint of a started run."""


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """Speed and peak memory, measured in a few training steps."""

    trial: ProbeResult
    tokens_per_second: float
    """Mean over all remaining steps."""
    seconds_left: float | None
    """For all remaining steps, without validation, samples and checkpoints; None if their number is unknown."""


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """Checkpoints on disk: bytes of one, how many may be added at any time, and free bytes."""

    checkpoint: int
    checkpoints: int
    free: int

    @property
    def needed(self) -> int:
        """Bytes of all checkpoints that may be added."""
        return self.checkpoint * self.checkpoints


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate of a run."""

    parameters: int
    non_embedding_parameters: int
    flops_per_token: int
    memory: MemoryEstimate
    budget: MemoryBudget
    length: RunLength
    disk: DiskEstimate
    speed: MeasuredSpeed | None

    @property
    def memory_needed(self) -> int:
        """Bytes needed of the memory in ``budget``: measured if possible, else estimated."""
        host = 0 if self.on_gpu else sum(self.memory.host.values())
        measured = self.speed.trial.peak_bytes if self.speed else 0
        program = self.memory.host["program"] if not self.on_gpu else 0
        return measured + host - program if measured else sum(self.memory.on_device.values()) + host

    @property
    def on_gpu(self) -> bool:
        """True if the model is in the memory of a GPU."""
        return "GPU" in self.budget.where

    @property
    def fits_memory(self) -> bool:
        """False also if the measurement ran out of memory. If it took too long, the estimate alone decides."""
        return self.memory_needed <= self.budget.free and not (self.speed and self.speed.trial.fits is False)

    @property
    def fits_disk(self) -> bool:
        """The check of ``fabella train`` before its first step."""
        return self.disk.needed <= self.disk.free


def estimate(
    run: RunConfig,
    prepared: TokenizedDataset | None,
    budget: MemoryBudget,
    free_disk: int,
    limits: ProbeLimits | None,
    *,
    saved: Sequence[int] = (),
) -> Estimate:
    """Return the estimate of ``run``. ``prepared`` is its dataset, if any; ``limits`` is None to measure nothing.

    ``saved`` are the steps of the existing checkpoints of a started run.
    """
    device = limits.device if limits else "auto"
    table = run.model.parameters()
    length = replace(run_length(run, prepared), taken=max(saved, default=0))
    return Estimate(
        parameters=count(table),
        non_embedding_parameters=count_non_embedding(table),
        flops_per_token=flops_per_token(run.model, run.data.sequences.length),
        memory=estimate_memory(run, device),
        budget=budget,
        length=length,
        disk=DiskEstimate(checkpoint_bytes(run), max_checkpoints(run, len(saved)), free_disk),
        speed=measure_speed(run, length, limits) if limits else None,
    )


def estimate_memory(run: RunConfig, device: str) -> MemoryEstimate:
    """Return the memory of a run, from its parameter table and one pass through the network without data."""
    table, training, engine = run.model.parameters(), run.training, engines.backend(run.engine, "measure.memory")
    weights = FLOAT_BYTES * count(table)
    average = average_bytes(run)
    moments = checkpoint_bytes(run) - weights - average  # a checkpoint holds weights, moments and average
    heads = sum(table[name].size for name in output_head_params(table, run.model.vocab_size))
    sequence_bytes = 2 * FLOAT_BYTES * run.data.sequences.length  # ids and targets
    global_batch = max(batch_size_at(training, first) for first, _ in training.gradient_accumulation)
    on_device = {
        "weights": weights,
        "gradients": weights,
        "optimizer": moments,
        **({"average": average} if average else {}),
        "activations": engine.activation_bytes(run, training.micro_batch_size, device),
        "head gradient": FLOAT_BYTES * heads,  # computed with the loss, then added to the gradients
        "logits": engine.loss_bytes(run, training.micro_batch_size, device),
    }
    kept = engine.kept_bytes(run, sum(on_device.values()) + PROGRAM_BYTES, device)
    return MemoryEstimate(
        on_device=on_device,
        host={
            "program": PROGRAM_BYTES,
            **({"freed, kept for the next step": kept} if kept else {}),
            "prefetched batches": (PREFETCH_BATCHES + 1) * global_batch * sequence_bytes,
            "checkpoint snapshot": weights + moments + average,
        },
    )


def run_length(run: RunConfig, prepared: TokenizedDataset | None) -> RunLength:
    """Return steps, tokens and epochs as far as they are known; the length of a stream is unknown."""
    training = run.training
    sequences = data_mode(run.data.mode.kind).count_sequences(run.data, prepared) if prepared else None
    steps = None
    match training.length:
        case MaxSteps(max_steps=number):
            steps = number
        case MaxTokens(max_tokens=tokens):
            steps = steps_for_sequences(training, math.ceil(tokens / run.data.sequences.length))
        case Epochs(epochs=epochs) if sequences:
            steps = steps_for_sequences(training, math.ceil(sequences * epochs))
        case _:
            pass
    used = sequences_before(training, steps) if steps else None
    return RunLength(
        steps=steps,
        tokens=used * run.data.sequences.length if used else None,
        epochs=used / sequences if used and sequences else getattr(training.length, "epochs", None),
        sequences_per_step=tuple(
            (first, batch_size_at(training, first)) for first, _ in training.gradient_accumulation
        ),
    )


def measure_speed(run: RunConfig, length: RunLength, limits: ProbeLimits) -> MeasuredSpeed:
    """Take a few steps in a child process and extrapolate to the whole run."""
    accumulates = any(number > 1 for _, number in run.training.gradient_accumulation)
    trial = probe_batch_size(run, run.training.micro_batch_size, limits, (1, 2, 1) if accumulates else (1, 1))
    if not trial.measured:
        return MeasuredSpeed(trial, 0.0, None)
    stages = _stages(run, length)
    measured_stages = stages or [(1, run.training.gradient_accumulation[-1][1])]
    sequences = sum(number * count * run.training.micro_batch_size for number, count in measured_stages)
    tokens_per_second = sequences * run.data.sequences.length / _seconds(trial, measured_stages)
    return MeasuredSpeed(trial, tokens_per_second, _seconds(trial, stages) if length.steps else None)


def _seconds(trial: ProbeResult, stages: Sequence[tuple[int, int]]) -> float:
    return sum(number * (count * trial.seconds + trial.update_seconds) for number, count in stages)


def _stages(run: RunConfig, length: RunLength) -> list[tuple[int, int]]:
    """Return (remaining steps, micro-batches per step) for every stage of the accumulation; empty if unknown."""
    pairs, steps = run.training.gradient_accumulation, length.steps or 0
    ends = [*(first for first, _ in pairs[1:]), steps]
    stages = [
        (min(end, steps) - max(first, length.taken), number) for (first, number), end in zip(pairs, ends, strict=True)
    ]
    return [(steps_left, number) for steps_left, number in stages if steps_left > 0]


def existing_parent(out: Path) -> Path:
    """Return the nearest existing parent of ``out``, whose free disk space counts."""
    return next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
