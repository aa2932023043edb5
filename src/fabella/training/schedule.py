"""What changes with the step, as plain functions of it: learning rate and batch size. Both engines read the same."""

import itertools
import math
from collections.abc import Iterator, Sequence

from fabella.config.optimizer import OptimizerConfig, SchedulePhase
from fabella.config.training import TrainingConfig


def learning_rate(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """The rate for the update numbered ``step`` (from 0) in a run of ``total``: peak rate times the schedule."""
    return optimizer.lr * _factor(optimizer.schedule, step, total)


def _factor(segments: Sequence[SchedulePhase], step: int, total: int) -> float:
    """The schedule's value at ``step``; after the last segment its end value holds, without segments 1.

    The first update comes after the first step of the warm-up, not at its zero: it is never wasted.
    """
    step += 1
    for segment in segments:
        steps = segment.steps(total)
        if step <= steps:
            return _within(segment, step / steps)
        step -= steps
    return segments[-1].end if segments else 1.0


def _within(segment: SchedulePhase, share: float) -> float:
    """Value at ``share`` (0 to 1) of a segment: a straight line, or half a cosine wave (Loshchilov & Hutter 2017)."""
    if segment.shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return segment.start + (segment.end - segment.start) * share


def batch_size_at(training: TrainingConfig, step: int) -> int:
    """Windows in the global batch of ``step``: the micro-batch times the accumulation of that step."""
    accumulation = [count for first, count in training.gradient_accumulation if first <= step][-1]
    return training.micro_batch_size * accumulation


def sequences_before(training: TrainingConfig, step: int) -> int:
    """Windows that all steps before ``step`` have used: the position in the data."""
    firsts = [first for first, _ in training.gradient_accumulation]
    ends = [*firsts[1:], step]
    return sum(
        max(0, min(end, step) - first) * count * training.micro_batch_size
        for (first, count), end in zip(training.gradient_accumulation, ends, strict=True)
    )


def batch_sizes(training: TrainingConfig, step: int) -> Iterator[int]:
    """Windows in each global batch from ``step`` on, without end."""
    return (batch_size_at(training, number) for number in itertools.count(step))


def steps_for_sequences(training: TrainingConfig, windows: int) -> int:
    """The smallest number of optimizer steps that uses at least ``windows`` windows."""
    low, high = 0, 1
    while sequences_before(training, high) < windows:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sequences_before(training, middle) < windows else (low, middle)
    return high
