"""Batch-size finder: probe for the largest and the fastest micro-batch, with an unchanged global batch.

The micro-batch must divide every global batch of the run, and the gradient accumulation is adjusted to it. The finder
probes divisors, each about twice the previous, until one does not fit. Then it bisects between the last that fits and
the first that does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabella.config.training import TrainingConfig
from fabella.errors import UsageError
from fabella.planning.probe import REASONS, ProbeLimits, ProbeResult, probe_batch_size
from fabella.run_config.run import RunConfig
from fabella.storage import format_bytes

FASTEST_TOLERANCE = 0.97
"""Share of the highest speed that counts as equally fast: repeated measurements differ by about 3 %."""


@dataclass(frozen=True, slots=True)
class BatchSizeResult:
    """All probes in their order, with the largest and the fastest micro-batch that fits."""

    trials: tuple[ProbeResult, ...]
    largest: ProbeResult
    fastest: ProbeResult
    """The smallest of those within FASTEST_TOLERANCE of the highest speed."""


def find_batch_size(
    run: RunConfig,
    limits: ProbeLimits,
    *,
    max_size: int = 0,
    report: Callable[[ProbeResult], None] = lambda trial: None,
) -> BatchSizeResult:
    """Probe micro-batches of ``run`` up to ``max_size`` sequences; 0 for the global batch. ``report`` gets each result.

    Raises UsageError if not even one sequence fits, or if the first probe reaches its timeout.
    """
    sizes = [size for size in candidate_sizes(run.training) if size <= max_size or not max_size]

    def attempt(size: int) -> ProbeResult:
        trial = probe_batch_size(run, size, limits)
        report(trial)
        return trial

    trials = search(sizes, attempt)
    fitting = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.micro_batch_size)
    if not fitting:
        raise _nothing_fits(run, limits, trials[-1])
    speed = max(trial.tokens_per_second for trial in fitting)
    fastest = next(trial for trial in fitting if trial.tokens_per_second >= FASTEST_TOLERANCE * speed)
    return BatchSizeResult(trials=tuple(trials), largest=fitting[-1], fastest=fastest)


def candidate_sizes(training: TrainingConfig) -> list[int]:
    """Return the micro-batches that divide every global batch of the run, in ascending order."""
    largest = math.gcd(*(training.micro_batch_size * count for _, count in training.gradient_accumulation))
    below = [size for size in range(1, math.isqrt(largest) + 1) if largest % size == 0]
    return sorted({*below, *(largest // size for size in below)})


def search(sizes: Sequence[int], attempt: Callable[[int], ProbeResult]) -> list[ProbeResult]:
    """Double, then bisect; return all results in their order. ``sizes`` must be ascending."""
    trials = [attempt(sizes[0])]
    good, bad = 0, len(sizes)  # index of the last that fits, of the first that does not
    while trials[-1].fits and good < len(sizes) - 1:
        beyond = [number for number in range(good + 1, len(sizes)) if sizes[number] >= 2 * sizes[good]]
        number = beyond[0] if beyond else len(sizes) - 1
        trials.append(attempt(sizes[number]))
        good, bad = (number, bad) if trials[-1].fits else (good, number)
    while trials[0].fits and bad - good > 1:
        middle = (good + bad) // 2
        trials.append(attempt(sizes[middle]))
        good, bad = (middle, bad) if trials[-1].fits else (good, middle)
    return trials


def with_micro_batch_size(run: RunConfig, micro_batch_size: int) -> RunConfig:
    """Return the run with another micro-batch, which must divide its global batches, and the same global batches."""
    training = run.training
    accumulation = tuple(
        (step, count * training.micro_batch_size // micro_batch_size) for step, count in training.gradient_accumulation
    )
    changed = {"micro_batch_size": micro_batch_size, "gradient_accumulation": accumulation}
    return run.model_copy(update={"training": training.model_copy(update=changed)})


def _nothing_fits(run: RunConfig, limits: ProbeLimits, trial: ProbeResult) -> UsageError:
    reason = REASONS[trial.reason]
    if trial.reason == "time":
        return UsageError(
            f"A micro-batch of {trial.micro_batch_size} {reason}: over {limits.seconds:g} seconds for a few steps.",
            hint="Give it more time (--trial-timeout 600), shorten data.sequences.length, or choose a smaller model.",
        )
    checkpointing = (
        "" if run.training.gradient_checkpointing == "blocks" else "training.gradient_checkpointing=blocks, "
    )
    return UsageError(
        f"A micro-batch of {trial.micro_batch_size} sequence of {run.data.sequences.length:,} tokens {reason}: "
        f"{format_bytes(limits.limit)}.",
        hint=f"Try {checkpointing}a shorter data.sequences.length, or a smaller model; or free memory.",
    )
