"""The learning-rate schedule of a run whose length changes after some steps.

A schedule in shares of the run would follow the new length, and the learning rate would jump. Here the steps taken keep
the rates that they had, and the rest of the run gets phases of its own. The saved schedule therefore has the rate of
every step, before and after the change.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

from fabella.config.optimizer import Schedule, SchedulePhase
from fabella.config.training import MaxSteps
from fabella.errors import ConfigError, did_you_mean
from fabella.run_config.run import RunConfig
from fabella.training.schedule import learning_rate, lr_factor, phase_steps, phase_value

ScheduleChange = Literal["auto", "hold", "rewarm", "decay", "stretch"]
CHANGES: tuple[ScheduleChange, ...] = get_args(ScheduleChange)
REWARM_SHARE = 0.05
"""Share of the remaining steps in which the rate rises again; presets warm up over 5 or 10 % of a run."""
MIN_REWARM_STEPS = 20
"""The rate rises by at most 1/20 of its peak a step, however few steps remain."""
USUAL_CHANGE = 1.5
"""Change of the rate, as a share of the one a step before, that is not a jump: the phases of a short run are steep."""
MAX_JUMP = 0.05
"""Change of the rate between two steps, as a share of the larger peak, that is reported as a jump."""


def parse_schedule_change(text: str) -> ScheduleChange:
    """Return the change that a user named. Raise ConfigError for an unknown one."""
    for change in CHANGES:
        if text == change:
            return change
    raise ConfigError(f"Unknown --schedule {text!r}.", hint=did_you_mean(text, CHANGES))


def change_schedule(
    phases: Schedule, change: ScheduleChange, *, step: int, before: int, after: int, from_zero: bool = False
) -> Schedule:
    """Return the schedule of a run of ``before`` steps that ends after ``after``, changed once ``step`` are taken.

    ``auto`` never lets the rate jump: a schedule that ends with the run is stretched over its rest, from the present
    rate; one that has ended, or ends before the run, keeps its rates, and its end rate holds; if that is 0, ``rewarm``.
    ``hold``: the present rate to the end. ``rewarm``: up to the peak again, then the last decay. ``decay``: from the
    present rate to the end of the last decay. ``stretch``: shares of the run become those of the new length.

    ``from_zero``: a re-warm-up starts at 0, for an optimizer without moments. Raise ConfigError for ``hold`` and
    ``decay`` at a rate of 0, which would change nothing.
    """
    if after <= step or change == "stretch" or (step == 0 and change == "auto"):
        return phases
    taken = _taken(phases, step, before)
    present = _present(phases, step, before)
    last = lr_factor(phases, step - 1, before) if step and not from_zero else 0.0
    if change == "rewarm":
        return (*taken, *_rewarm(phases, last, after - step))
    if change == "auto":
        return _continued(phases, taken, last, step, before, after)
    if present == 0.0:
        raise ConfigError(
            f"The learning rate is 0 after step {step:,}: --schedule {change} would train without effect.",
            hint="Use --schedule rewarm.",
        )
    return (*taken, _decay(phases, present, after - step)) if change == "decay" else taken


def describe_rates(saved: RunConfig, requested: RunConfig, step: int) -> list[str]:
    """Return lines with the learning rates before and after ``step``, where a run gets the config ``requested``."""
    before, after = _max_steps(saved), _max_steps(requested)
    last, following = learning_rate(saved.optimizer, step - 1, before), learning_rate(requested.optimizer, step, after)
    rates = f"{last:.3g} at step {step:,}, {following:.3g} at step {step + 1:,}"
    if after <= step:
        return [f"Learning rate: {last:.3g} at step {step:,}, the last one."]
    ends = itertools.accumulate(taken for _, taken in phase_steps(requested.optimizer.schedule, after))
    candidates = [number for end in ends for number in (end - 1, end) if step <= number < after]
    peak_step = max([step, *candidates], key=lambda number: learning_rate(requested.optimizer, number, after))
    later = f", {learning_rate(requested.optimizer, after - 1, after):.3g} at step {after:,}, the last one"
    if step == after - 1:
        later = ", the last one"
    if peak_step not in {step, after - 1}:
        later = f", {learning_rate(requested.optimizer, peak_step, after):.3g} at step {peak_step + 1:,}{later}"
    lines = [f"Learning rate: {rates}{later}."]
    if _jumps(saved, requested, step):
        lines.append(f"warning: the learning rate jumps{_reason_of_jump(saved, requested)}")
    idle = 0
    while idle < after - step and learning_rate(requested.optimizer, after - 1 - idle, after) == 0.0:
        idle += 1
    if idle:
        lines.append(f"warning: the learning rate is 0 in {idle:,} steps, which change nothing. Use --schedule rewarm.")
    return lines


def _jumps(saved: RunConfig, requested: RunConfig, step: int) -> bool:
    """Return whether the rate changes at ``step`` by much, and more than before, unless its peak changes as well."""
    before = learning_rate(saved.optimizer, step - 1, _max_steps(saved))
    change = abs(learning_rate(requested.optimizer, step, _max_steps(requested)) - before)
    much = MAX_JUMP * max(saved.optimizer.lr, requested.optimizer.lr) * (1 + 1e-9)
    if step > 1 and saved.optimizer.lr == requested.optimizer.lr:
        earlier = learning_rate(saved.optimizer, step - 2, _max_steps(saved))
        much = max(much, USUAL_CHANGE * abs(before - earlier))
    return change > much


def _reason_of_jump(saved: RunConfig, requested: RunConfig) -> str:
    """Return the end of a sentence, with what avoids a jump of the learning rate."""
    if saved.optimizer.lr != requested.optimizer.lr:
        before, after = saved.optimizer.lr, requested.optimizer.lr
        return f": its peak changes from {before:g} to {after:g} (optimizer.lr), from the next step on."
    return (
        ". --schedule auto, hold or decay continue from the present rate, --schedule rewarm rises step by step. Leave "
        "out optimizer.schedule then."
    )


def _max_steps(run: RunConfig) -> int:
    assert isinstance(run.training.length, MaxSteps), "the config of a saved run is resolved"
    return run.training.length.max_steps


def _continued(phases: Schedule, taken: Schedule, last: float, step: int, before: int, after: int) -> Schedule:
    """Return the schedule for ``auto``; ``last``: value at the last step."""
    steps = phase_steps(phases, before)
    length = sum(number for _, number in steps)
    end = lr_factor(phases, length, before)
    running = step < length
    if running and (length == before or (end == 0.0 and length < before)):
        return (*taken, *_stretched(phases, step, before, length, after))
    if end == 0.0 and not running:
        return (*taken, *_rewarm(phases, last, after - step))
    return tuple(_fixed(phase, number) for phase, (number, _) in zip(phases, steps, strict=True))


def _fixed(phase: SchedulePhase, length: int) -> SchedulePhase:
    """Return a phase with its length in steps."""
    return phase.model_copy(update={"length": length}) if isinstance(phase.length, str) else phase


def _taken(phases: Schedule, step: int, total: int) -> Schedule:
    """Return the phases of the first ``step`` steps, with exactly the rates that these steps had."""
    taken: list[SchedulePhase] = []
    held = 1.0
    for phase, (length, steps) in zip(phases, phase_steps(phases, total), strict=True):
        if step == 0:
            return tuple(taken)
        used = min(steps, step)
        if used:
            taken.append(phase.model_copy(update={"length": length, "cut_after": used if used < length else 0}))
        held = phase_value(phase, used, length)
        step -= used
    if step:  # the last value was held
        taken.append(SchedulePhase(shape="linear", start=held, end=held, length=step))
    return tuple(taken)


def _present(phases: Schedule, step: int, total: int) -> float:
    """Return the value from which the rest of the run continues: that of the last step, or of a decay's next one."""
    held = 1.0
    for phase, (length, steps) in zip(phases, phase_steps(phases, total), strict=True):
        held = phase_value(phase, min(steps, step), length)
        if step < steps:
            return held
        step -= steps
    return held


def _stretched(phases: Schedule, step: int, total: int, end: int, after: int) -> list[SchedulePhase]:
    """Return the phases after ``step``, stretched so that the schedule ends at ``after`` instead of ``end``."""
    rest: list[SchedulePhase] = []
    position, start = 0, step
    for phase, (length, steps) in zip(phases, phase_steps(phases, total), strict=True):
        begin, position = position, position + steps
        if position <= step:
            continue
        stop = step + round((position - step) * (after - step) / (end - step))
        present = phase_value(phase, max(step - begin, 0), length)
        values = {"start": present, "end": phase_value(phase, steps, length), "length": stop - start, "cut_after": 0}
        rest.append(phase.model_copy(update=values))
        start = stop
    return rest


def _rewarm(phases: Schedule, last: float, steps: int) -> list[SchedulePhase]:
    """Return a linear rise to the peak, at most 1/20 of it a step, and the last decay over the other steps."""
    rise = min(max(MIN_REWARM_STEPS, round(REWARM_SHARE * steps)), max(steps // 2, 1))
    top = min(1.0, last + rise / MIN_REWARM_STEPS)
    falls = any(phase.end < phase.start for phase in phases)
    if top <= last:  # at the peak already
        return [_decay(phases, last, steps)] if falls else []
    warm_up = SchedulePhase(shape="linear", start=last, end=top, length=rise)
    return [warm_up, _decay(phases, top, steps - rise)] if falls and steps > rise else [warm_up]


def _decay(phases: Sequence[SchedulePhase], present: float, steps: int) -> SchedulePhase:
    """Return the last falling phase of a schedule from the ``present`` value on; without one, a linear fall to 0."""
    last = next((phase for phase in reversed(phases) if phase.end < phase.start), None)
    end = last.end if last and last.end < present else 0.0
    return SchedulePhase(shape=last.shape if last else "linear", start=present, end=end, length=steps)
