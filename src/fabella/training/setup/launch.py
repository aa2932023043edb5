"""Train a request in this process or in one process per device, for the command line and ``fabella.train``."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import require_divisible
from fabella.engine.rank import RankInfo, current_rank
from fabella.errors import (
    ConfigError,
    DataError,
    DistributedError,
    FabellaError,
    NumericsError,
    StorageError,
    TrainingInterrupted,
)
from fabella.runs.family_files import trust_family
from fabella.runs.run_dir import require_empty
from fabella.tracking.console import print_status
from fabella.training.distributed_run import LaunchPlan, run_distributed, start_or_resume
from fabella.training.eval_loss import EvalLoss
from fabella.training.loop import Progress, UserCallback
from fabella.training.session import BestCheckpoint, TrainResult
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.request import TrainRequest, engine_of, resolve_request

ERRORS = {
    error.exit_code: error
    for error in (ConfigError, DataError, StorageError, NumericsError, DistributedError, TrainingInterrupted)
}
"""Exit code → error that a process with it has printed."""


def plan_training(request: TrainRequest, rank: RankInfo) -> LaunchPlan:
    """Resolve the config and prepare the data, on rank 0 only."""
    resolved = resolve_request(request)
    require_divisible(resolved.run.training, rank.world_size)
    engines.require_device(resolved.run.engine, request.device, rank)
    out = request.out or Path("runs") / resolved.run.name
    may_resume = request.resume or rank.restart_count > 0
    if not may_resume:
        require_empty(out)
    for reason in resolved.reasons:
        print_status(reason)
    prepare, fit = partial(prepare_request, resolved, request.prepared), partial(fit_request, resolved)
    if may_resume:
        trust_family(resolved.run.model.family)  # the user has just named it
        moved = resolved.prepared.folder if resolved.prepared else None
        return start_or_resume(fit, out, prepare, moved=moved)
    dataset = prepare()
    return LaunchPlan(fit(dataset), out, dataset.folder, resume=False)


def train_request(request: TrainRequest, callbacks: Sequence[UserCallback] = ()) -> TrainResult:
    """Train a request in this process, which may be one of several ranks."""
    rank = current_rank()
    return run_distributed(
        rank,
        partial(plan_training, request, rank),
        device=request.device,
        engine=engine_of(request),
        user_callbacks=callbacks,
    )


def train_on_devices(devices: str, request: TrainRequest, callbacks: Sequence[UserCallback] = ()) -> TrainResult:
    """Train a request in one new process for each of ``devices`` (a number, or auto), or in this one for one device.

    In several processes, callbacks must be functions of a module. An error is printed by its process, and raised here
    with its exit code.
    """
    engine = engine_of(request)
    launcher = engines.backend(engine, "distributed.launcher") if devices != "1" else None
    count = launcher.parse_devices(devices) if launcher else 1
    if launcher is None or count == 1 or current_rank().world_size > 1:
        return train_request(request, callbacks)
    with tempfile.TemporaryDirectory(prefix="fabella-train-") as directory:
        path = Path(directory) / "result.json"
        code = launcher.launch(count, _train_rank, request, tuple(callbacks), str(path))
        if code:
            raise _error_of(code, count)
        return _read_result(path)


def _train_rank(request: TrainRequest, callbacks: Sequence[UserCallback], path: str) -> int:
    """Train as one of several ranks; rank 0 writes the result. Return the exit code."""
    try:
        result = train_request(request, callbacks)
    except FabellaError as error:
        print_status(str(error))
        return error.exit_code
    if current_rank().is_main:
        Path(path).write_text(json.dumps({**asdict(result), "folder": str(result.folder.absolute())}), encoding="utf-8")
    return 0


def _error_of(code: int, count: int) -> FabellaError:
    """Return an error of the class that has an exit code."""
    message = f"Training in {count} processes ended with exit code {code}."
    return ERRORS.get(code, FabellaError)(message, hint="The error is printed above.")


def _read_result(path: Path) -> TrainResult:
    values = json.loads(path.read_text(encoding="utf-8"))
    return TrainResult(
        Path(values["folder"]),
        Progress(**values["progress"]),
        EvalLoss(**values["score"]),
        BestCheckpoint(**values["best"]) if values["best"] else None,
    )
