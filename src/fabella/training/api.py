"""``fabella.train`` and ``fabella.resume``: the commands of the same names, in Python."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import require_divisible
from fabella.engine.rank import RankInfo, current_rank
from fabella.errors import (
    ConfigError,
    DataError,
    DistributedError,
    FabellaError,
    NumericsError,
    OutOfMemoryError,
    StorageError,
    TrainingInterrupted,
)
from fabella.runs.run_dir import require_empty
from fabella.tracking.console import print_status
from fabella.training.distributed_run import LaunchPlan, run_distributed, start_or_resume
from fabella.training.eval_loss import EvalLoss
from fabella.training.fine_tuning.request import engine_of_training, resolve_training
from fabella.training.loop import Progress, UserCallback
from fabella.training.session import BestCheckpoint, TrainResult
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.request import TrainRequest, common_settings
from fabella.training.setup.resume_request import ResumeRequest, removing_unused_branch, resolve_resume

ERRORS = {
    error.exit_code: error
    for error in (
        ConfigError,
        DataError,
        StorageError,
        NumericsError,
        OutOfMemoryError,
        DistributedError,
        TrainingInterrupted,
    )
}
"""Exit code → error that a process with it has printed."""


def train(
    what: str | Path | Sequence[str | Path],
    *,
    data: str | Path = "",
    init_from: str | Path = "",
    validation: str | Path = "",
    out: str | Path = "",
    steps: int = 0,
    epochs: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    engine: str = "",
    device: str = "auto",
    devices: int | str = 1,
    resume: bool = False,
    prepared: str | Path = "prepared",
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TrainResult:
    """Train on a text, or several files of one, a preset or a YAML file, with the options of ``fabella train``.

    ``init_from``: run or checkpoint whose weights the run begins with, to fine-tune them on the text ``what``.
    ``steps`` or ``epochs``: length. ``lr``: peak learning rate. ``batch_size``: sequences of one forward pass.
    ``settings``: config key → value, e.g. ``{"optimizer.max_grad_norm": 0.5}``; they win over the other arguments.
    ``resume``: resume the run if it is already in ``out``. ``devices``: new processes on this machine, one per device
    (a number, or ``auto``); a script needs ``if __name__ == "__main__":`` then, and its callbacks are functions of an
    imported module.

    ``callbacks``: called after every step, before it is saved, with a TrainingStep: its ``progress``, the metrics by
    ``result.read()``, ``model`` and ``engine``. Reading the metrics waits for the device, so do it every few steps:

        from fabella.training.loop import StopTraining, TrainingStep

        def stop_at_loss_two(step: TrainingStep) -> None:
            if step.progress.step % 100 == 0 and step.result.read()["loss"] < 2.0:
                raise StopTraining  # saves this step and measures the final loss

        run = fabella.train("storybook-1m", callbacks=[stop_at_loss_two])

    The manifest of the run has their names. A callback that changes the model must repeat it with the same bits itself.
    Raise the errors of ``fabella.errors``; TrainingInterrupted, with everything saved, after Ctrl-C.
    """
    first, *more = [what] if isinstance(what, str | Path) else what or [""]
    options = common_settings(steps=steps, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    request = TrainRequest(
        what=str(first),
        more=[str(path) for path in more],
        data=str(data),
        init_from=str(init_from),
        validation=str(validation),
        engine=engine,
        steps=steps,
        overrides=(*options, *_to_overrides(settings)),
        out=Path(out) if out else None,
        prepared=Path(prepared),
        device=device,
        resume=resume,
    )
    return train_on_devices(str(devices), request, callbacks)


def resume(
    run: str | Path,
    *,
    steps: int = 0,
    epochs: float = 0.0,
    tokens: int = 0,
    minutes: float = 0.0,
    lr: float | None = None,
    batch_size: int | None = None,
    engine: str = "",
    schedule: str = "auto",
    reset_optimizer: bool = False,
    checkpoint: str | int = "",
    out: str | Path = "",
    data: str | Path = "",
    device: str = "auto",
    devices: int | str = 1,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TrainResult:
    """Resume the run in the directory ``run`` exactly where it stopped. The arguments are options of the command.

    ``steps``, ``epochs``, ``tokens``: train to this length. ``minutes``: train this much longer. ``lr``: peak learning
    rate, ``batch_size``: sequences of one forward pass, ``engine``: from now on. ``schedule``: auto, hold, rewarm,
    decay or stretch; by default the learning rate does not jump. ``out``: a new run that begins with the checkpoint
    ``checkpoint`` (best, latest or a step; by default latest). ``data``: new path of the dataset, if it was moved.
    ``devices``: as in ``train``. ``callbacks``: as in ``train``; they are not saved with the run, so give them again.

        longer = fabella.resume("runs/a", steps=2000)
        other = fabella.resume("runs/a", checkpoint=500, out="runs/b", settings={"optimizer.lr": 1e-3})

    Raise ConfigError for a changed setting with which the saved state has another meaning.
    """
    request = ResumeRequest(
        run=Path(run),
        overrides=(
            *common_settings(lr=lr, batch_size=batch_size),
            *((f"engine={engine}",) if engine else ()),
            *_to_overrides(settings),
        ),
        steps=steps,
        epochs=epochs,
        tokens=tokens,
        minutes=minutes,
        schedule=schedule,
        reset_optimizer=reset_optimizer,
        checkpoint=str(checkpoint),
        out=Path(out) if out else None,
        data=Path(data) if data else None,
    )
    return _on_devices(str(devices), request.engine, partial(resume_as_rank, request, device, tuple(callbacks)))


def _to_overrides(settings: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return settings as the command line has them, with JSON values, which are YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in (settings or {}).items())


def plan_training(request: TrainRequest, rank: RankInfo) -> LaunchPlan:
    """Resolve the config and prepare the data, on rank 0 only."""
    may_resume = request.resume or rank.restart_count > 0
    resolved, initial = resolve_training(replace(request, resume=may_resume))
    require_divisible(resolved.run.training, rank.world_size)
    engines.require_device(resolved.run.engine, request.device, rank)
    engines.require_masks(resolved.run)
    out = request.out or Path("runs") / resolved.run.name
    if not may_resume:
        require_empty(out)
    for reason in resolved.reasons:
        print_status(reason)
    prepare, fit = partial(prepare_request, resolved, request.prepared), partial(fit_request, resolved)
    if may_resume:
        moved = resolved.prepared.path if resolved.prepared else None
        return start_or_resume(fit, out, prepare, moved=moved, initial=initial, family=resolved.run.model.family)
    dataset = prepare()
    return LaunchPlan(fit(dataset), out, dataset.path, resume=False, initial=initial)


def train_as_rank(request: TrainRequest, callbacks: Sequence[UserCallback] = ()) -> TrainResult:
    """Train a request in this process, which may be one of several ranks."""
    return training_call(request, callbacks)()


def training_call(request: TrainRequest, callbacks: Sequence[UserCallback] = ()) -> Callable[[], TrainResult]:
    """Return the call that trains a request in this process, which may be one of several ranks."""
    rank = current_rank()
    return partial(
        run_distributed,
        rank,
        partial(plan_training, request, rank),
        device=request.device,
        engine=engine_of_training(request),
        user_callbacks=callbacks,
    )


def resume_as_rank(request: ResumeRequest, device: str, callbacks: Sequence[UserCallback] = ()) -> TrainResult:
    """Resume a run or begin a branch in this process, which may be one of several ranks."""
    rank = current_rank()
    with removing_unused_branch(request) if rank.is_main else nullcontext():
        return run_distributed(
            rank, partial(_plan_resume, request), device=device, engine=request.engine, user_callbacks=callbacks
        )


def _plan_resume(request: ResumeRequest) -> LaunchPlan:
    path, config = resolve_resume(request)
    return LaunchPlan(config, path, request.data, resume=True)


def train_on_devices(devices: str, request: TrainRequest, callbacks: Sequence[UserCallback] = ()) -> TrainResult:
    """Train a request in one new process for each of ``devices`` (a number, or auto), or in this one for one device.

    In several processes, callbacks must be functions of a module. An error is printed by its process, and raised here
    with its exit code.
    """
    return _on_devices(devices, engine_of_training(request), partial(train_as_rank, request, tuple(callbacks)))


def _on_devices(devices: str, engine: str, work: Callable[[], TrainResult]) -> TrainResult:
    """Return the result of ``work``, called in one new process for each of ``devices``, or in this one for one."""
    found = engines.find_launcher(engine, devices)
    if found is None or current_rank().world_size > 1:
        return work()
    launcher, count = found
    with tempfile.TemporaryDirectory(prefix="fabella-train-") as directory:
        path = Path(directory) / "result.json"
        code = launcher.launch(count, _work_as_rank, work, str(path))
        if code:
            raise _error_of(code, count)
        return _read_result(path)


def _work_as_rank(work: Callable[[], TrainResult], path: str) -> int:
    """Call ``work`` as one of several ranks; rank 0 writes the result. Return the exit code."""
    try:
        result = work()
    except FabellaError as error:
        print_status(str(error))
        return error.exit_code
    if current_rank().is_main:
        Path(path).write_text(json.dumps({**asdict(result), "path": str(result.path.absolute())}), encoding="utf-8")
    return 0


def _error_of(code: int, count: int) -> FabellaError:
    """Return an error of the class that has an exit code."""
    message = f"Training in {count} processes ended with exit code {code}."
    return ERRORS.get(code, FabellaError)(message, hint="The error is printed above.")


def _read_result(path: Path) -> TrainResult:
    values = json.loads(path.read_text(encoding="utf-8"))
    return TrainResult(
        Path(values["path"]),
        Progress(**values["progress"]),
        EvalLoss(**values["score"]),
        BestCheckpoint(**values["best"]) if values["best"] else None,
        EvalLoss(**values["average_score"]) if values["average_score"] else None,
    )
