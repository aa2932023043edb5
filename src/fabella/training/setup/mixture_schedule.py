"""Phases of the mixture of a run, with their ends in sequences."""

import math
import re

from fabella.config.data import PHASE_END, MixturePhase, MixtureSource
from fabella.config.tracking import FACTORS
from fabella.config.training import MaxSteps
from fabella.errors import ConfigError
from fabella.run_config.run import RunConfig
from fabella.training.schedule import sequences_before


def resolve_mixture(run: RunConfig) -> RunConfig:
    """Return the config with the phases of its mixture in sequences, so that the order of data has no other input.

    The length of ``run`` is in steps. Raise ConfigError for phases that are not in order.
    """
    source = run.data.source
    if not isinstance(source, MixtureSource) or is_mixture_resolved(run):
        return run
    ends = [_end(run, phase) for phase in source.schedule]
    for before, after, phase in zip(ends, ends[1:], source.schedule[1:], strict=False):
        if after <= before:
            raise ConfigError(
                f"data.source.schedule: the phase until {phase.until} ends at sequence {after:,}, which is not after "
                f"the end of the phase before it, sequence {before:,}.",
                hint="Put the phases in the order of their ends, all in the same unit.",
            )
    phases = tuple(
        phase.model_copy(update={"until": f"{end} sequences"}) for phase, end in zip(source.schedule, ends, strict=True)
    )
    data = run.data.model_copy(update={"source": source.model_copy(update={"schedule": phases})})
    return run.model_copy(update={"data": data})


def is_mixture_resolved(run: RunConfig) -> bool:
    """Return whether the phases of the mixture, if any, are in sequences."""
    source = run.data.source
    return not isinstance(source, MixtureSource) or all(
        re.fullmatch(r"[0-9]+ sequences", str(phase.until)) for phase in source.schedule
    )


def _end(run: RunConfig, phase: MixturePhase) -> int:
    """Return the sequences of a run before the end of a phase."""
    if isinstance(phase.until, int):
        return sequences_before(run.training, phase.until)
    amount = PHASE_END.fullmatch(phase.until)
    assert amount, "the config is valid"
    assert isinstance(run.training.length, MaxSteps), "the length is in steps"
    number = float(amount[1])
    if amount[2]:
        return sequences_before(run.training, round(number / 100 * run.training.length.max_steps))
    count = number * FACTORS[amount[3]]
    return round(count) if amount[4] == "sequences" else math.ceil(count / run.data.sequences.length)
