"""``fabella.train`` and ``fabella.resume``: the commands of the same names, in Python."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.resume_rules import compare_for_resume
from fabella.tracking.console import print_status
from fabella.training import run as training_run
from fabella.training.loop import UserCallback
from fabella.training.session import TrainResult
from fabella.training.setup.launch import train_on_devices
from fabella.training.setup.request import TrainRequest, common_settings
from fabella.training.setup.resume_request import ResumeRequest, resolve_resume


def train(
    what: str | Path,
    *,
    data: str | Path = "",
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
    """Train on a text, a preset or a YAML file. The arguments are options of ``fabella train``.

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

    The manifest of the run has their names. A callback that changes the model changes what is learned: repeating the
    run with the same bits is then its responsibility.

    Raise the errors of ``fabella.errors``; TrainingInterrupted, with everything saved, after Ctrl-C.
    """
    options = common_settings(steps=steps, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    request = TrainRequest(
        what=str(what),
        data=str(data),
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
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[UserCallback] = (),
) -> TrainResult:
    """Resume the run in the directory ``run`` exactly where it stopped. The arguments are options of the command.

    ``steps``, ``epochs``, ``tokens``: train to this length. ``minutes``: train this much longer. ``lr``: peak learning
    rate, ``batch_size``: sequences of one forward pass, ``engine``: from now on. ``schedule``: auto, hold, rewarm,
    decay or stretch; by default the learning rate does not jump. ``out``: a new run that begins with the checkpoint
    ``checkpoint`` (best, latest or a step; by default latest). ``data``: new path of the dataset, if it was moved.
    ``callbacks``: as in ``train``; they are not saved with the run, so give them again.

        longer = fabella.resume("runs/a", steps=2000)
        other = fabella.resume("runs/a", checkpoint=500, out="runs/b", settings={"optimizer.lr": 1e-3})

    Raise ConfigError for a changed setting with which the saved state has another meaning.
    """
    dataset = Path(data) if data else None
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
        data=dataset,
    )
    path, config = resolve_resume(request)
    return training_run.resume(path, device=device, dataset=dataset, run=config, user_callbacks=callbacks)


def change_config(saved: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the config with ``overrides`` and print what changes. Raise ConfigError for what must not change."""
    config = validate_config(apply_overrides(saved.model_dump(mode="json"), overrides)) if overrides else saved
    for difference in compare_for_resume(saved, config):
        print_status(str(difference))
    return config


def _to_overrides(settings: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return settings as the command line has them, with JSON values, which are YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in (settings or {}).items())
