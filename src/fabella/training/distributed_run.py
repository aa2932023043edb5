"""One training by one process or by many: the first decides what is done, all do it, and one ends like the others."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup, RankInfo, require_divisible
from fabella.errors import FabellaError, NumericsError, TrainingInterrupted
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.resume_rules import compare_for_resume
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.tracking.console import print_status
from fabella.training import run as session
from fabella.training.run import TrainResult

TO_ALL_ALIKE = (TrainingInterrupted, NumericsError)
"""What every process raises at the same step; the first one says it."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What is to be done: train ``run`` in the folder ``out``; or go on with the one there, where ``resumed``."""

    run: RunConfig
    out: Path
    prepared: Path | None
    """The folder with the ids. A resumed run knows its own; None: take that."""
    resumed: bool


def run_distributed(
    place: RankInfo, decide: Callable[[], LaunchPlan], *, device: str = "auto", engine: str = "torch"
) -> TrainResult:
    """Do what ``decide`` says; with several processes it is asked in the first one only, which may take its time.

    Raises RanksError where another process is lost. Those beside the first end silently (SystemExit, with the code of
    the error) where all have met the same error; any other says which process has met it.
    """
    try:
        with ExitStack() as stack:
            ranks = stack.enter_context(engines.init_distributed(engine, place, device=device))
            return execute(broadcast_plan(ranks, decide), ranks, device)
    except FabellaError as error:
        if place.is_main:
            raise
        if isinstance(error, TO_ALL_ALIKE):
            raise SystemExit(error.exit_code) from None
        raise type(error)(f"({place}) {error.message}", hint=error.hint) from error


def start_or_resume(run: RunConfig, out: Path, prepared: TokenizedDataset) -> LaunchPlan:
    """Go on where ``out`` holds this very run already, as after a restart; begin where it holds none.

    Raises ConfigError where it holds another one.
    """
    if not (out / CONFIG).is_file():
        return LaunchPlan(run, out, prepared.folder, resumed=False)
    run = session.resolve_config(run, prepared)
    for difference in compare_for_resume(RunDir.open(out).run, run):
        print_status(str(difference))
    return LaunchPlan(run, out, prepared.folder, resumed=True)


def broadcast_plan(ranks: ProcessGroup, decide: Callable[[], LaunchPlan]) -> LaunchPlan:
    """What the first process decides, told to all."""
    if ranks.rank_info.is_main:
        decision = decide()
        require_divisible(decision.run.training, ranks.rank_info.world_size)
        ranks.broadcast(json.dumps(_as_words(decision)))
        return decision
    words = json.loads(ranks.broadcast(""))
    prepared = Path(words["prepared"]) if words["prepared"] else None
    return LaunchPlan(validate_config(words["run"]), Path(words["out"]), prepared, words["resumed"])


def _as_words(decision: LaunchPlan) -> dict[str, Any]:
    prepared = str(decision.prepared.absolute()) if decision.prepared else ""
    values = decision.run.model_dump(mode="json")
    return {"run": values, "out": str(decision.out.absolute()), "prepared": prepared, "resumed": decision.resumed}


def execute(decision: LaunchPlan, ranks: ProcessGroup, device: str) -> TrainResult:
    ranks.init_collectives(decision.run.training.parallel.timeout_seconds)
    run, out, prepared = decision.run, decision.out, decision.prepared
    if decision.resumed:
        return session.resume(out, device=device, prepared=prepared, run=run, ranks=ranks)
    assert prepared is not None, "a new run has its data"
    return session.start_run(run, out, open_dataset(prepared, full=ranks.rank_info.is_main), device=device, ranks=ranks)
