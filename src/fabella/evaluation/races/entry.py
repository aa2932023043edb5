"""Enter a race: prepare the text, measure steps, train as many as the clock allows, and score the result once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabella.data.prepare.pipeline import cores
from fabella.engine import engine as engines
from fabella.engine.engine import Engine
from fabella.errors import StorageError
from fabella.evaluation.races.artifact import require_artifact, score_artifact
from fabella.evaluation.races.clock import MEASURED_STEPS, MEASURING_SHARE, LastStep, RaceClock, steps_within
from fabella.evaluation.races.entry_rules import EntryRequest, device_of, require_threads, resolve_entry
from fabella.evaluation.races.race import Race
from fabella.evaluation.races.race_receipt import RECEIPT, RaceReceipt, race_receipt, scored_weights
from fabella.evaluation.step_time import time_steps
from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import CONFIG, require_empty
from fabella.storage import format_duration, remove_dir, write_json
from fabella.storage.messages import escaped_path
from fabella.training import run as training_run
from fabella.training.setup.prepare_request import prepare_request


def enter(race: Race, entry: EntryRequest, report: Callable[[str], None] = lambda text: None) -> RaceReceipt:
    """Enter a race and write the receipt into the run directory. Return the receipt.

    The clock begins here and ends with the last training step; the score is not on it. ``report`` gets one sentence per
    phase. Raises UsageError for what breaks a rule of the race; then nothing is written.
    """
    clock = RaceClock(race.minutes)
    resolved, recipe = resolve_entry(race, entry)
    run = resolved.run
    device = device_of(race, entry, run)
    if race.artifact:
        require_artifact(race.artifact, run.model)
    out = entry.out or Path("runs") / f"{race.name}-{run.seed}"
    prepared = entry.prepared / out.absolute().name
    require_empty(out)
    _require_unprepared(prepared)
    before = clock.left
    engine = engines.create_engine(run, device=device)
    startup = before - clock.left
    require_threads(race, run.engine, int(engine.describe().get("threads", cores())))
    try:
        dataset = prepare_request(resolved, prepared)
        clock.end("prepare")
        step_seconds, steps = 0.0, entry.steps
        if not steps:
            step_seconds, steps = _planned_steps(clock, run, engine, startup, report)
        run = _with_length(run, engine, steps)
        del engine  # its memory
        clock.end("measure")
        last_step = LastStep(steps)
        result = training_run.start_run(run, out, dataset, device=device, user_callbacks=[last_step])
        clock.end("train", last_step.time)
    except BaseException:
        if prepared.exists() and not (out / CONFIG).is_file():
            remove_dir(prepared)
        raise
    values: dict[str, Any] = {}
    if race.artifact:
        values = score_artifact(
            race,
            race.artifact,
            result.path,
            run.data,
            weights=scored_weights(result),
            device=device,
            report=report,
        )
    tuned_on = entry.tuned_on or ("not stated" if entry.recipe or entry.overrides else race.tuned_on)
    receipt = race_receipt(
        race, recipe, result, dataset, clock, tuned_on=tuned_on, measured_step_seconds=step_seconds, **values
    )
    write_json(result.path / RECEIPT, receipt.as_json())
    return receipt


def _planned_steps(
    clock: RaceClock, run: RunConfig, engine: Engine, startup: float, report: Callable[[str], None]
) -> tuple[float, int]:
    """Measure steps. Return the seconds of one, and how many fit into the rest of the clock."""
    report("Measuring this machine …")
    measured = time_steps(engine, run, seconds=MEASURING_SHARE * clock.limit, most=MEASURED_STEPS)
    steps = steps_within(clock.left, run, measured, startup)
    left = format_duration(max(clock.left, 0.0))
    report(f"{1000 * measured.later:,.0f} ms per step: {steps:,} steps in the {left} that are left.")
    return measured.later, steps


def _with_length(run: RunConfig, engine: Engine, steps: int) -> RunConfig:
    """Return the config with its length, and with compiling as the measured engine does it, whatever the length."""
    compiled = {"blocks": "blocks", "nothing": "none"}.get(str(engine.describe().get("compiled")), "auto")
    settings = [f"training.length.max_steps={steps}", f"training.compile={compiled}"]
    return validate_config(apply_overrides(run.model_dump(mode="json"), settings))


def _require_unprepared(directory: Path) -> None:
    """Raise StorageError if the text may be prepared already: preparing it is on the clock."""
    if os.path.lexists(directory):
        raise StorageError(
            f"{escaped_path(directory)} exists already, and the text is prepared there while the clock runs.",
            hint="Remove it, or choose another --out.",
        )
