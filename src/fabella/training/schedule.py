"""Learning rate and batch size as functions of the step, the same for both engines."""

import itertools
import math
from collections.abc import Iterator, Sequence

from fabella.config.optimizer import OptimizerConfig, SchedulePhase
from fabella.config.training import TrainingConfig


def learning_rate(optimizer: OptimizerConfig, step: int, total: int) -> float:
    """Return the learning rate of ``step`` (from 0) in a run of ``total`` steps: peak rate times schedule."""
    return optimizer.lr * lr_factor(optimizer.schedule, step, total)


def lr_factor(phases: Sequence[SchedulePhase], step: int, total: int) -> float:
    """Return the value of the schedule at ``step`` (from 0): after the last phase its last value, without phases 1.

    The first step of a warm-up has the value after one step, and the last step of a decay the one before its end,
    because a rate of 0 would waste them.
    """
    value = 1.0
    for phase, (length, taken) in zip(phases, phase_steps(phases, total), strict=True):
        if step < taken:
            return phase_value(phase, step + 1 if phase.end > phase.start else step, length)
        step -= taken
        value = phase_value(phase, taken, length)
    return value


def phase_steps(phases: Sequence[SchedulePhase], total: int) -> list[tuple[int, int]]:
    """Return for each phase its length in steps, and how many of them are taken before the next begins.

    The ends of the phases are rounded, not their lengths: phases of 100 % in all have ``total`` steps.
    """
    steps: list[tuple[int, int]] = []
    exact, start = 0.0, 0
    for phase in phases:
        exact += phase.steps(total)
        length = round(exact) - start
        taken = min(phase.cut_after or length, length)
        if taken < length:
            exact = float(start + taken)
        steps.append((length, taken))
        start += taken
    return steps


def phase_value(phase: SchedulePhase, step: int, length: int) -> float:
    """Return the value after ``step`` of ``length`` steps of a phase.

    cosine: half a cosine (Loshchilov & Hutter 2017).
    """
    if step >= length:
        return phase.end
    fraction = step / length
    if phase.shape == "cosine":
        fraction = (1 - math.cos(math.pi * fraction)) / 2
    elif phase.shape == "sqrt":
        fraction = math.sqrt(fraction)
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
