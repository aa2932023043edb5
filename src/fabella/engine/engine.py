"""The contract of every engine, and the functions that find an engine by its name.

An engine builds a model from its config, takes optimizer steps on global batches, evaluates, and gives and takes its
state as plain numpy arrays. It knows nothing of files, tracking or the command line.
"""

import hashlib
import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed
from fabella.data.batches import Batch
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError, did_you_mean
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_label, network_module
from fabella.run_config.run import RunConfig

ENGINES = ("torch", "jax")


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the next training step depends on, in a form that every engine reads."""

    weights: Mapping[str, NDArray[np.float32]]
    """By the names of the parameter table."""
    optimizer_state: Mapping[str, NDArray[np.float32]]
    """By the names of the optimizer's ``state_spec``: ``first.NAME``, ``second.NAME`` …"""
    scalars: Mapping[str, int | float]
    """``step``, ``updates``, the counters of the step guard, and the number of averaged weights."""
    average: Mapping[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]])
    """Average of the trained weights (``optimizer.average``); empty before it begins"""


class StepResult(Protocol):
    """Measurements of one step. Reading them may wait for the device; a step whose result is not read never waits."""

    def read(self) -> dict[str, float]:
        """Return ``loss`` and ``grad_norm``, and ``skipped_steps`` (of the whole run) if the policy can skip steps.

        ``loss``: mean nats per token of the global batch. ``grad_norm``: before clipping; NaN for a non-finite step.
        """
        ...


class Timer(Protocol):
    """Measures the time of steps, by the device's own clock where it has one."""

    def start(self) -> None:
        """Mark the start of a step."""
        ...

    def stop(self) -> None:
        """Mark the point at which all work of the step is queued; the device may still be busy."""
        ...

    def read(self) -> list[float]:
        """Return the seconds of each step since the last call. Waits for the device."""
        ...


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of the values of one tensor: ``counts`` in bins of equal width from ``low`` to ``high``."""

    low: float
    high: float
    counts: tuple[int, ...]


class Engine(Protocol):
    """One model in training. Its parameters are those of ``ModelConfig.parameters()``."""

    name: str
    config: ModelConfig

    def describe(self) -> dict[str, str | int | float]:
        """Return device, precision, threads and versions, for the manifest and for people."""
        ...

    def step(self, batch: Batch, lr: float) -> StepResult:
        """Take one optimizer step on a global batch; its micro-batches are accumulated.

        Non-finite values never reach the weights. After a failure, as ``training.on_nonfinite`` defines it, no later
        step is applied; NonFiniteStepError names the failed step, here or when a result is read.
        """
        ...

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Return the loss of each target in nats, [B T], 0 for ignored ones. Changes nothing."""
        ...

    def evaluating(self) -> AbstractContextManager[Any]:
        """Provide the model without dropout, in the form that ``generation`` takes. Training is not affected."""
        ...

    def has_average(self) -> bool:
        """Return whether weights have been averaged. Waits for the device."""
        ...

    def using_average(self) -> AbstractContextManager[None]:
        """Evaluate the average of the weights during the block, in which no step may be taken."""
        ...

    def histograms(self) -> Mapping[str, Histogram]:
        """Return ``weights/NAME`` and, after a step, ``gradients/NAME``. Changes nothing."""
        ...

    def stopwatch(self) -> Timer:
        """Return a timer for the steps of this engine."""
        ...

    def peak_flops(self) -> float:
        """Return the FLOP/s of the fastest matrix products on these devices, measured at the first call."""
        ...

    def peak_memory(self) -> int:
        """Return the peak memory in bytes so far: of the device, or of this process where it has no own memory."""
        ...

    def state(self) -> State:
        """Return a snapshot that later steps do not change."""
        ...

    def reset_optimizer(self) -> None:
        """Return to the optimizer state before the first step: zeros, and no updates. The weights do not change."""
        ...

    def restore(self, state: State) -> None:
        """Continue from a snapshot of this or another engine. Raises CheckpointError if names or shapes differ."""
        ...


def dropout_seed(seed: int, step: int, row: int) -> int:
    """Return the 63-bit seed of the dropout of a micro-batch that starts at ``row`` of the global batch.

    As a function of its arguments it needs no random state in a checkpoint. It does not depend on the number of ranks
    either, as long as each rank takes complete micro-batches.
    """
    digest = hashlib.blake2b(f"{seed}:{step}:{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def backend(name: str, part: str = "engine") -> Any:
    """Import the module ``PART_NAME`` of an engine.

    ``engine`` has ``create_engine``, ``require_device`` and ``has_gpu``. Other parts: ``build_model`` with
    ``load_model``, ``distributed.process_group``, ``distributed.launcher``, ``measure.memory``, ``nan_finder``.
    Raises ConfigError for an unknown engine, an engine without this part, or a package that is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"Unknown engine {name!r}.", hint=did_you_mean(name, ENGINES))
    module = f"fabella.engine.{part}_{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name == module:
            raise ConfigError(f"engine={name} does not support {part!r}.", hint="Use engine=torch.") from None
        raise ConfigError(
            f"Cannot use engine={name}: the Python package {missing.name!r} is not installed.",
            hint=f"Install it with pip install 'fabella[{name}]', or use engine=torch.",
        ) from None


def find_launcher(name: str, devices: str) -> tuple[Any, int] | None:
    """Return the launcher of the engine ``name`` and how many devices it starts; None for one device, here.

    ``devices``: a number, or auto. Raises ConfigError for anything else.
    """
    if devices == "1":
        return None
    launcher = backend(name, "distributed.launcher")
    count = launcher.parse_devices(devices)
    return None if count == 1 else (launcher, count)


def require_device(name: str, device: str, rank_info: RankInfo) -> None:
    """Raise ConfigError if the engine ``name`` has no such device for this process."""
    backend(name).require_device(device, rank_info)


def create_engine(
    run: RunConfig,
    *,
    device: str = "auto",
    group: ProcessGroup | None = None,
    recorded: Mapping[str, str] = MappingProxyType({}),
) -> Engine:
    """Return a new engine with the run's initial weights and an empty optimizer state.

    ``recorded``: how an interrupted run computed on a CPU, ``matmul`` and ``kernels`` as in ``describe()``. By default,
    PyTorch measures which matrix products are fastest, and uses its training kernels; JAX has one way.

    With a process group, every rank creates an engine and calls its methods in the same order: ``step`` with the same
    global batch, of which each rank takes its own rows, and ``state``, whose arrays only rank 0 receives.
    """
    require_masks(run)
    return backend(run.engine).create_engine(run, device, group or SingleProcess(), recorded)


def require_masks(run: RunConfig) -> None:
    """Raise ConfigError if the run masks documents and its family has no such masks."""
    sequences, family = run.data.sequences, family_label(run.model.family)
    if not isinstance(sequences, Packed) or not sequences.mask_documents:
        return
    if not getattr(network_module(run.model, run.engine).Model, "masks_documents", False):
        raise ConfigError(
            f"model.family = {family} does not mask documents with engine={run.engine}: its Model does not have "
            "masks_documents = True.",
            hint="Set data.sequences.mask_documents=false, or write masks: fabella.models describes document_starts.",
        )


def init_distributed(name: str, rank_info: RankInfo, *, device: str = "auto") -> AbstractContextManager[ProcessGroup]:
    """Join the process group of this training for the duration of the block.

    Raises DistributedError if another rank exits.
    """
    if rank_info.world_size == 1:
        return nullcontext(SingleProcess())
    return backend(name, "distributed.process_group").init_distributed(rank_info, device)
