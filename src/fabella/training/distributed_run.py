"""Train in one process or in a process group: rank 0 decides what to train, and all ranks train it."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup, require_divisible
from fabella.engine.rank import RankInfo
from fabella.errors import DistributedError, FabellaError, NumericsError, TrainingInterrupted
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.family_files import trust_family
from fabella.runs.run_dataset import find_run_dataset, require_same_data
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.training import run as training_run
from fabella.training.loop import UserCallback
from fabella.training.session import TrainResult
from fabella.training.setup.resolve_config import resolve_config
from fabella.training.setup.resume_request import accepted_config

RAISED_BY_ALL_RANKS = (TrainingInterrupted, NumericsError)
"""Errors that all ranks raise at the same step; rank 0 prints them."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What all ranks do: start ``run`` in the run directory ``out``, or resume the one in it."""

    run: RunConfig
    out: Path
    dataset: Path | None
    """Directory of the dataset; None: the one that the resumed run started with"""
    resume: bool
    initial: training_run.InitialWeights | None = None
    """Weights that a new run begins with; on rank 0 only"""


def run_distributed(
    rank: RankInfo,
    plan: Callable[[], LaunchPlan],
    *,
    device: str = "auto",
    engine: str = "torch",
    user_callbacks: Sequence[UserCallback] = (),
) -> TrainResult:
    """Execute a plan on all ranks. ``plan`` is called on rank 0 only and may take long.

    Raise DistributedError if another process is lost. An error that several ranks have is printed once: ranks other
    than 0 raise SystemExit with its exit code if rank 0, or the rank that caused it, prints it. Other errors name the
    rank.
    """
    process_group: ProcessGroup | None = None
    try:
        with ExitStack() as stack:
            process_group = stack.enter_context(engines.init_distributed(engine, rank, device=device))
            return execute(broadcast_plan(process_group, plan), process_group, device, user_callbacks)
    except FabellaError as error:
        if rank.is_main:
            raise
        if _is_printed_elsewhere(error, process_group):
            raise SystemExit(error.exit_code) from None
        raise type(error)(f"({rank}) {error.message}", hint=error.hint) from error


def _is_printed_elsewhere(error: FabellaError, process_group: ProcessGroup | None) -> bool:
    """Return whether another rank prints the error of a rank other than 0."""
    if isinstance(error, RAISED_BY_ALL_RANKS) or (isinstance(error, DistributedError) and error.published):
        return True
    return process_group is not None and process_group.main_failed_with(error.message)


def start_or_resume(
    fit: Callable[[TokenizedDataset], RunConfig],
    out: Path,
    prepare: Callable[[], TokenizedDataset],
    *,
    moved: Path | None = None,
    initial: training_run.InitialWeights | None = None,
    family: str = "",
) -> LaunchPlan:
    """Plan to resume a run if it is already in ``out``, e.g. after a restart, and to start it otherwise.

    ``fit`` returns the config for a dataset. ``prepare`` returns the dataset; it is called for a new run, or if the
    dataset of the existing one is missing. ``moved``: path of the dataset, if it was given. ``initial``: weights that a
    new run begins with. ``family``: the one that the user has named, whose files are trusted.
    Raise ConfigError if ``out`` contains another run, or if the text is not that of the run.
    """
    if not (out / CONFIG).is_file():
        dataset = prepare()
        return LaunchPlan(fit(dataset), out, dataset.path, resume=False, initial=initial)
    if family:
        trust_family(family)
    run_dir = RunDir.open(out)
    found = find_run_dataset(run_dir, moved)
    dataset = prepare() if found is None else found
    run = resolve_config(run_dir.with_kept_family(fit(dataset)), dataset)
    run = accepted_config(run_dir, run)
    require_same_data(run_dir, run, dataset, always=moved is None)
    return LaunchPlan(run, out, dataset.path, resume=True)


def broadcast_plan(process_group: ProcessGroup, plan: Callable[[], LaunchPlan]) -> LaunchPlan:
    """Return the plan of rank 0 on all ranks."""
    if process_group.rank_info.is_main:
        launch_plan = plan()
        require_divisible(launch_plan.run.training, process_group.rank_info.world_size)
        process_group.broadcast(json.dumps(_to_json(launch_plan)))
        return launch_plan
    values = json.loads(process_group.broadcast(""))
    dataset = Path(values["dataset"]) if values["dataset"] else None
    run = validate_config(values["run"])
    trust_family(run.model.family)  # rank 0 trusts it, possibly on another machine
    return LaunchPlan(run, Path(values["out"]), dataset, values["resume"])


def _to_json(plan: LaunchPlan) -> dict[str, Any]:
    dataset = str(plan.dataset.absolute()) if plan.dataset else ""
    run = plan.run.model_dump(mode="json")
    return {"run": run, "out": str(plan.out.absolute()), "dataset": dataset, "resume": plan.resume}


def execute(
    plan: LaunchPlan, process_group: ProcessGroup, device: str, user_callbacks: Sequence[UserCallback] = ()
) -> TrainResult:
    """Start or resume the run of the plan in this process."""
    process_group.init_collectives(plan.run.training.parallel.timeout_seconds)
    if plan.resume:
        return training_run.resume(
            plan.out,
            device=device,
            dataset=plan.dataset,
            run=plan.run,
            user_callbacks=user_callbacks,
            process_group=process_group,
        )
    assert plan.dataset is not None, "a new run has a dataset"
    dataset = open_dataset(plan.dataset, full=process_group.rank_info.is_main)
    return training_run.start_run(
        plan.run,
        plan.out,
        dataset,
        device=device,
        user_callbacks=user_callbacks,
        process_group=process_group,
        initial=plan.initial,
    )
