"""The largest micro-batch that fits, and the fastest, found by trying; the global batch stays what it was.

A micro-batch only ever changes how a step is computed, not what is learned in it: so it must divide the global batch
of every part of the run, and the accumulation is set to make up for it. Tried are such divisors, each about twice the
one before, until one does not fit; then those between the last that did and the first that did not, by halves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabella.config.training import TrainingConfig
from fabella.errors import UsageError
from fabella.planning.probe import REASONS, ProbeLimits, ProbeResult, try_out
from fabella.run_config.run import RunConfig
from fabella.storage import format_bytes

AS_FAST = 0.97
"""Of the fastest speed: repetitions of one measurement differ by about 3 %."""


@dataclass(frozen=True, slots=True)
class BatchSizeResult:
    """All that was tried, in that order, and the two that are worth taking."""

    trials: tuple[ProbeResult, ...]
    largest: ProbeResult
    fastest: ProbeResult
    """The smallest of those that are as fast as the fastest, but for what a measurement may be wrong by."""


def find_batch_size(
    run: RunConfig, given: ProbeLimits, *, most: int = 0, report: Callable[[ProbeResult], None] = lambda trial: None
) -> BatchSizeResult:
    """Try micro-batches of ``run`` up to ``most`` windows (0: the global batch). ``report`` hears of each trial.

    Raises UsageError where not even one window fits, or the first trial does not end in time.
    """
    sizes = [size for size in sizes_of(run.training) if size <= most or not most]

    def attempt(size: int) -> ProbeResult:
        trial = try_out(run, size, given)
        report(trial)
        return trial

    trials = search(sizes, attempt)
    good = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.micro_batch)
    if not good:
        raise _nothing_fits(run, given, trials[-1])
    speed = max(trial.tokens_per_second for trial in good)
    fastest = next(trial for trial in good if trial.tokens_per_second >= AS_FAST * speed)
    return BatchSizeResult(trials=tuple(trials), largest=good[-1], fastest=fastest)


def sizes_of(training: TrainingConfig) -> list[int]:
    """Micro-batches that divide the global batch of every part of the run, smallest first."""
    largest = math.gcd(*(training.micro_batch_size * count for _, count in training.gradient_accumulation))
    below = [size for size in range(1, math.isqrt(largest) + 1) if largest % size == 0]
    return sorted({*below, *(largest // size for size in below)})


def search(sizes: Sequence[int], attempt: Callable[[int], ProbeResult]) -> list[ProbeResult]:
    """Doubling, then halving: all trials in their order. Of ``sizes``, which rise, those that fit come first."""
    trials = [attempt(sizes[0])]
    good, bad = 0, len(sizes)  # the last that is known to fit, the first that is known not to
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


def with_micro_batch(run: RunConfig, micro_batch: int) -> RunConfig:
    """The run with another micro-batch, which must divide its global batches, and the accumulation that keeps them."""
    training = run.training
    accumulation = tuple(
        (step, count * training.micro_batch_size // micro_batch) for step, count in training.gradient_accumulation
    )
    changed = {"micro_batch_size": micro_batch, "gradient_accumulation": accumulation}
    return run.model_copy(update={"training": training.model_copy(update=changed)})


def _nothing_fits(run: RunConfig, given: ProbeLimits, trial: ProbeResult) -> UsageError:
    reason = REASONS[trial.reason]
    if trial.reason == "time":
        return UsageError(
            f"A micro-batch of {trial.micro_batch} {reason}: more than {given.seconds:g} seconds for a few steps.",
            hint="Give it more time (--seconds 600), shorten data.sequences.length, or choose a smaller model.",
        )
    recompute = "" if run.training.gradient_checkpointing == "blocks" else "training.gradient_checkpointing=blocks, "
    return UsageError(
        f"A micro-batch of {trial.micro_batch} window of {run.data.sequences.length:,} tokens {reason}: "
        f"{format_bytes(given.limit)}.",
        hint=f"Try {recompute}a shorter data.sequences.length, or a smaller model; or free memory.",
    )
