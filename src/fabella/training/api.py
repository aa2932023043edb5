"""``fabella.train`` and ``fabella.resume``: the verbs of the command line, in Python."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import RankInfo
from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.resume_rules import compare_for_resume
from fabella.runs.run_dir import RunDir, require_empty
from fabella.tracking.console import print_status
from fabella.tracking.prepare_progress import print_notes
from fabella.training import run as session
from fabella.training.run import TrainResult
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request


def train(
    what: str | Path,
    *,
    data: str | Path = "",
    validation: str | Path = "",
    out: str | Path = "",
    steps: int = 0,
    engine: str = "",
    device: str = "auto",
    prepared: str | Path = "prepared",
    settings: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train on a text as it is, a preset or a YAML file; see ``fabella train --help`` for each argument.

    ``settings``: dotted key → value, as in ``{"optimizer.lr": 3e-4}``. Raises the errors of ``fabella.errors``;
    Interrupted, with everything saved, after Ctrl-C.
    """
    asked = TrainRequest(
        what=str(what),
        data=str(data),
        validation=str(validation),
        engine=engine,
        steps=steps,
        overrides=_assignments(settings),
    )
    planned = resolve_request(asked)
    engines.require_device(planned.run.engine, device, RankInfo())
    folder = Path(out) if out else Path("runs") / planned.run.name
    require_empty(folder)
    for reason in planned.reasons:
        print_status(reason)
    ids = planned.prepared or prepare_data(planned.run, Path(prepared))
    print_notes(ids.manifest)
    return session.start_run(planned.run, folder, ids, device=device)


def resume(
    run: str | Path, *, data: str | Path = "", device: str = "auto", settings: Mapping[str, Any] | None = None
) -> TrainResult:
    """Go on with the run in the folder ``run`` exactly where it stopped; ``data``: its prepared folder, if moved.

    Raises ConfigError for a changed setting that would make the saved state mean something else.
    """
    asked = changed(RunDir.open(Path(run)).run, _assignments(settings))
    return session.resume(Path(run), device=device, prepared=Path(data) if data else None, run=asked)


def changed(saved: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run with ``overrides``; what differs and may, is said. Raises ConfigError for what must not change."""
    asked = validate_config(apply_overrides(saved.model_dump(mode="json"), overrides)) if overrides else saved
    for difference in compare_for_resume(saved, asked):
        print_status(str(difference))
    return asked


def _assignments(settings: Mapping[str, Any] | None) -> tuple[str, ...]:
    """As the command line has them; JSON is YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in (settings or {}).items())
