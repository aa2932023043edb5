"""Learning rate and batch size as functions of the step, the same for both engines."""

import itertools
import math
from collections.abc import Iterator, Sequence

from fabella.config.optimizer import OptimizerConfig, SchedulePhase
from fabella.config.training import TrainingConfig


def learning_rate(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """Return the learning rate of ``step`` (from 0) in a run of ``total`` steps: peak rate times schedule."""
    return optimizer.lr * _factor(optimizer.schedule, step, total)


def _factor(phases: Sequence[SchedulePhase], step: int, total: int) -> float:
    """Return the value of the schedule at ``step``: after the last phase its end value, without phases 1.

    The first step uses the warm-up's value after one step, because a rate of 0 would waste it.
    """
    step += 1
    for phase in phases:
        steps = phase.steps(total)
        if step <= steps:
            return _within(phase, step / steps)
        step -= steps
    return phases[-1].end if phases else 1.0


def _within(phase: SchedulePhase, fraction: float) -> float:
    """Return the value at ``fraction`` (0 to 1) of a phase: linear, or half a cosine (Loshchilov & Hutter 2017)."""
    if phase.shape == "cosine":
        fraction = (1 - math.cos(math.pi * fraction)) / 2
    return phase.start + (phase.end - phase.start) * fraction


def batch_size_at(training: TrainingConfig, step: int) -> int:
    """Return the sequences in the global batch of ``step``: micro-batch size times gradient accumulation."""
    accumulation = [count for first, count in training.gradient_accumulation if first <= step][-1]
    return training.micro_batch_size * accumulation


def sequences_before(training: TrainingConfig, step: int) -> int:
    """Return the sequences used by all steps before ``step``: the position in the data."""
    firsts = [first for first, _ in training.gradient_accumulation]
    ends = [*firsts[1:], step]
    return sum(
        max(0, min(end, step) - first) * count * training.micro_batch_size
        for (first, count), end in zip(training.gradient_accumulation, ends, strict=True)
    )


def batch_sizes(training: TrainingConfig, step: int) -> Iterator[int]:
    """Yield the sizes of the global batches from ``step`` on, without end."""
    return (batch_size_at(training, number) for number in itertools.count(step))


def steps_for_sequences(training: TrainingConfig, sequences: int) -> int:
    """Return the smallest number of training steps that use at least ``sequences`` sequences."""
    low, high = 0, 1
    while sequences_before(training, high) < sequences:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sequences_before(training, middle) < sequences else (low, middle)
    return high
