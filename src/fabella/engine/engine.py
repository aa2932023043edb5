"""The contract that every engine keeps, and how one is found by its name.

An engine builds a model from its config, takes optimizer steps on global batches, evaluates, and gives
and takes its state as plain numpy arrays. It knows nothing of files, tracking or the command line.
"""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.engine.distributed.process_group import ProcessGroup, RankInfo, SingleProcess
from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig
from fabella.run_config.run import RunConfig

ENGINES = ("torch", "jax")


@dataclass(frozen=True, slots=True)
class State:
    """Everything that makes the next step what it is, independent of the engine.

    ``weights``: the model by the names of its parameter table, float32. ``moments``: the optimizer's memory,
    ``first.NAME`` and ``second.NAME`` for Adam; a matrix of Muon's has its momentum in ``first.NAME`` and no second.
    ``numbers``: scalars by name (``step``, the loss scale …).
    """

    weights: Mapping[str, NDArray[np.float32]]
    optimizer_state: Mapping[str, NDArray[np.float32]]
    scalars: Mapping[str, int | float]


class StepResult(Protocol):
    """What a step measured. Reading it may wait for the device; a step that nobody reads never waits."""

    def read(self) -> dict[str, float]:
        """``loss`` (nats a token, of the global batch) and ``grad_norm`` (before clipping; 0 of a step left out).

        Where steps may be left out, ``skipped_steps`` too: how many were, in the whole run.
        """
        ...


class Stopwatch(Protocol):
    """The time of steps, by the device's own clock."""

    def start(self) -> None:
        """A step begins."""
        ...

    def stop(self) -> None:
        """It has been asked for in full; the device may still be at it."""
        ...

    def read(self) -> list[float]:
        """Seconds of each step since the last reading; waits for the device."""
        ...


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the values of one tensor are spread: ``counts`` in equal bins from ``low`` to ``high``."""

    low: float
    high: float
    counts: tuple[int, ...]


class Engine(Protocol):
    """One model being trained or used. Parameters are those of ``ModelConfig.parameters()``."""

    name: str
    config: ModelConfig

    def describe(self) -> dict[str, str | int | float]:
        """Device, precision, threads, versions: for the manifest and for people."""
        ...

    def step(self, batch: Batch, lr: float) -> StepResult:
        """One optimizer step on a global batch, its micro-batches accumulated.

        What is not finite never reaches the weights. Where ``training.on_nonfinite`` allows no more of it, no later step
        is taken; NotFinite says which was the first, here or when a result is read.
        """
        ...

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Negative log-likelihood of each target in nats, [B T], 0 where ignored. Changes nothing."""
        ...

    def evaluating(self) -> AbstractContextManager[Any]:
        """The model as ``generation`` takes it, without dropout; training goes on unchanged afterwards."""
        ...

    def histograms(self) -> Mapping[str, Histogram]:
        """``weights/NAME`` and, after a step, ``gradients/NAME``: how their values are spread. Changes nothing."""
        ...

    def stopwatch(self) -> Stopwatch:
        """For the steps of this engine."""
        ...

    def peak_flops(self) -> float:
        """Floating-point operations a second of the fastest matrix products here, measured at the first call."""
        ...

    def peak_memory(self) -> int:
        """The most bytes in use at once so far, of the memory that the device computes in."""
        ...

    def state(self) -> State:
        """A snapshot that later steps do not change."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a snapshot of this or another engine. Raises CheckpointError where names or shapes differ."""
        ...


def load(name: str, part: str = "engine") -> Any:
    """The module ``engine_NAME``: ``for_training(run, device, ranks)``, ``for_use(config, weights, device)``,
    ``joined(place, device)`` and ``require_device(device, place)``.

    Or another ``part`` of the engine that has a file of its own: ``memory`` (how much a step takes), ``peak``,
    ``launch`` (processes on this machine).
    Raises ConfigError where there is no such engine, or its package is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine = '{name}' is none here.", hint=did_you_mean(name, ENGINES))
    try:
        return importlib.import_module(f"fabella.engine.{part}_{name}")
    except ModuleNotFoundError as missing:
        if missing.name == f"fabella.engine.{part}_{name}":
            raise ConfigError(f"engine = '{name}' has no part '{part}'.", hint="Use engine=torch.") from None
        raise ConfigError(
            f"engine = '{name}' cannot be used: Python has no module '{missing.name}'.",
            hint=f"Install it: pip install 'fabella[{name}]', or use engine=torch.",
        ) from None


def require_device(name: str, device: str, place: RankInfo) -> None:
    """Raises ConfigError at once where the engine ``name`` has no such device for this process."""
    load(name).require_device(device, place)


def create_engine(run: RunConfig, *, device: str = "auto", group: ProcessGroup | None = None) -> Engine:
    """A new engine with the run's first weights and an empty optimizer.

    With ``group``, each of these processes makes one and calls its methods in the same order: ``step`` with the same
    global batch, of which every process takes its own rows; ``state``, whose arrays only the first process is given.
    """
    return load(run.engine).create_engine(run, device, group or SingleProcess())


def init_distributed(name: str, place: RankInfo, *, device: str = "auto") -> AbstractContextManager[ProcessGroup]:
    """This process among the others of its training, for as long as the block lasts.

    Raises RanksError where another process is lost.
    """
    return nullcontext(SingleProcess()) if place.world_size == 1 else load(name).init_distributed(place, device)
