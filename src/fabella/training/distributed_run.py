"""One training by one process or by many: the first decides what is done, all do it, and one ends like the others."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.data.dataset import Prepared, open_prepared
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import Place, Ranks, require_shareable
from fabella.errors import FabellaError, Interrupted, NumericsError
from fabella.run_config.files import run_from
from fabella.run_config.run import Run
from fabella.runs.resume_rules import compare_for_resume
from fabella.runs.run_dir import CONFIG, RunFolder
from fabella.tracking.console import say
from fabella.training import run as session
from fabella.training.run import Outcome

TO_ALL_ALIKE = (Interrupted, NumericsError)
"""What every process raises at the same step; the first one says it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done: train ``run`` in the folder ``out``; or go on with the one there, where ``resumed``."""

    run: Run
    out: Path
    prepared: Path | None
    """The folder with the ids. A resumed run knows its own; None: take that."""
    resumed: bool


def together(place: Place, decide: Callable[[], Decision], *, device: str = "auto", engine: str = "torch") -> Outcome:
    """Do what ``decide`` says; with several processes it is asked in the first one only, which may take its time.

    Raises RanksError where another process is lost. Those beside the first end silently (SystemExit, with the code of
    the error) where all have met the same error; any other says which process has met it.
    """
    try:
        with ExitStack() as stack:
            ranks = stack.enter_context(engines.joined(engine, place, device=device))
            return _done(_told(ranks, decide), ranks, device)
    except FabellaError as error:
        if place.first:
            raise
        if isinstance(error, TO_ALL_ALIKE):
            raise SystemExit(error.exit_code) from None
        raise type(error)(f"({place}) {error.problem}", fix=error.fix) from error


def begin_or_go_on(run: Run, out: Path, prepared: Prepared) -> Decision:
    """Go on where ``out`` holds this very run already, as after a restart; begin where it holds none.

    Raises ConfigError where it holds another one.
    """
    if not (out / CONFIG).is_file():
        return Decision(run, out, prepared.folder, resumed=False)
    run = session.resolve(run, prepared)
    for difference in compare_for_resume(RunFolder.open(out).run, run):
        say(str(difference))
    return Decision(run, out, prepared.folder, resumed=True)


def _told(ranks: Ranks, decide: Callable[[], Decision]) -> Decision:
    """What the first process decides, told to all."""
    if ranks.place.first:
        decision = decide()
        require_shareable(decision.run.training, ranks.place.size)
        ranks.tell(json.dumps(_as_words(decision)))
        return decision
    words = json.loads(ranks.tell(""))
    prepared = Path(words["prepared"]) if words["prepared"] else None
    return Decision(run_from(words["run"]), Path(words["out"]), prepared, words["resumed"])


def _as_words(decision: Decision) -> dict[str, Any]:
    prepared = str(decision.prepared.absolute()) if decision.prepared else ""
    values = decision.run.model_dump(mode="json")
    return {"run": values, "out": str(decision.out.absolute()), "prepared": prepared, "resumed": decision.resumed}


def _done(decision: Decision, ranks: Ranks, device: str) -> Outcome:
    ranks.meet(decision.run.training.parallel.timeout_seconds)
    run, out, prepared = decision.run, decision.out, decision.prepared
    if decision.resumed:
        return session.resume(out, device=device, prepared=prepared, run=run, ranks=ranks)
    assert prepared is not None, "a new run has its data"
    return session.start(run, out, open_prepared(prepared, full=ranks.place.first), device=device, ranks=ranks)
