"""The JAX engine: builds a family's network, takes compiled optimizer steps, evaluates, gives and takes its state."""

import importlib
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.config import Chained, Float16, ModelConfig, Run, Skip
from fabella.data.batches import IGNORE, Batch
from fabella.engine import measuring_jax
from fabella.engine.device_jax import (
    DEVICES,
    Device,
    Layout,
    describe_devices,
    describe_precision,
    pick_devices,
    resolve_precision,
)
from fabella.engine.dropout import dropout_seed
from fabella.engine.engine import Histogram, State, Stopwatch
from fabella.engine.kernels_jax import keep_kernels
from fabella.engine.loss_scale import LossScale
from fabella.engine.optimizer_jax import Memory, Optimizer
from fabella.engine.ranks import Place, Ranks
from fabella.engine.step_jax import How, Measured, Work, take_gradients, take_losses, take_step
from fabella.errors import CheckpointError, ConfigError, NotFinite
from fabella.models.nn_jax import Part
from fabella.models.parameters import initial_weights

Arrays = Mapping[str, NDArray[np.float32]]

LENGTHS = 4
"""Into how many lengths windows of whole documents are padded: each is compiled once."""


def for_training(run: Run, device: str = "auto", ranks: Ranks | None = None) -> "JaxEngine":
    """A new engine with the run's first weights and an empty optimizer."""
    if ranks is not None and ranks.place.size > 1:
        raise _in_one_process(ranks.place)
    if isinstance(run.training.nonfinite, Skip):
        raise ConfigError("training.nonfinite.kind=skip is for engine=torch.", fix="Use rewind, or engine=torch.")
    return JaxEngine(run, initial_weights(run.model.parameters(), run.seed), pick_devices(device, DEVICES.get()))


def joined(place: Place, device: str) -> AbstractContextManager[Ranks]:
    """Raises ConfigError: one process drives all devices of its machine."""
    raise _in_one_process(place)


def _in_one_process(place: Place) -> ConfigError:
    return ConfigError(
        f"engine=jax was started as {place}, and trains in one process.",
        fix="Start it without a launcher and with --engine jax: one process drives all devices (--devices auto).",
    )


def require_device(device: str, place: Place) -> None:
    """See ``engine.require_device``."""
    pick_devices(device, DEVICES.get())


def has_gpu() -> bool:
    """Whether ``auto`` picks something faster than the CPU."""
    return jax.default_backend() != "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class InUse:
    """A network with its weights, as generation and evaluation take it."""

    model: Any
    weights: dict[str, Array]
    compute: Any = jnp.float32

    @property
    def config(self) -> ModelConfig:
        """Of the family."""
        return self.model.config

    @property
    def network(self) -> Part:
        """What the model's functions take."""
        return Part(self.weights, compute=self.compute)


def for_use(config: ModelConfig, weights: Arrays, device: str = "auto") -> InUse:
    """The family's network with ``weights``. Raises CheckpointError where they do not fit."""
    keep_kernels()
    require_fit(config, weights)
    picked = pick_devices(device)[0]
    return InUse(build(config), {name: jax.device_put(np.array(array), picked) for name, array in weights.items()})


def build(config: ModelConfig) -> Any:
    """The family's ``Model``. Raises ConfigError for a family that is written for another engine only."""
    name = f"fabella.models.{config.family}_jax"
    try:
        return importlib.import_module(name).Model(config)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        raise ConfigError(
            f"model.family = {config.family!r} has no twin in JAX ({config.family}_jax.py).", fix="Use engine=torch."
        ) from None


def require_fit(config: ModelConfig, weights: Arrays) -> None:
    """Raises CheckpointError where names or shapes are not those of the parameter table."""
    expected = {name: parameter.shape for name, parameter in config.parameters().items()}
    given = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != given:
        wrong = sorted(expected.items() ^ given.items())
        raise CheckpointError(f"Weights do not fit the model; the first that differ: {wrong[:5]}.")


@dataclass(frozen=True, slots=True)
class JaxStepResult:
    """What a step measured, still on the device; with fp16, its loss scale and the steps skipped so far."""

    step: int
    measured: Measured
    scale: Mapping[str, float] = field(default_factory=dict[str, float])
    skipped: bool = False

    def read(self) -> dict[str, float]:
        """Wait for the device. Raises NotFinite where the step was not taken because it was not finite."""
        loss, norm = float(self.measured.loss), float(self.measured.norm)
        if self.skipped:
            return {"loss": loss, "gradient_norm": 0.0, **self.scale}
        if not np.isfinite(norm):
            bad = [name for name, square in self.measured.squares.items() if not np.isfinite(float(square))]
            raise NotFinite(
                f"Step {self.step}: loss {loss:.4g}; the gradient of {(bad or ['all weights together'])[0]} is not "
                "finite. The weights were left as they were.",
                fix="Resume with a lower optimizer.lr, a smaller optimizer.clip, or training.nonfinite.kind=rewind.",
                step=self.step,
            )
        return {"loss": loss, "gradient_norm": norm, **self.scale}


class JaxEngine:
    """One model in training, on one or more devices of this machine. See engine.py for the contract."""

    name = "jax"

    def __init__(self, run: Run, weights: Arrays, devices: list[Device]) -> None:
        keep_kernels()
        self.config, self.seed, self.devices = run.model, run.seed, devices
        self.windows, self.micro_batch = run.data.windows, run.training.micro_batch
        self.asked_precision = run.training.precision
        self.precision = resolve_precision(self.asked_precision, devices[0])
        self.loss_scale = LossScale.of(self.asked_precision if isinstance(self.asked_precision, Float16) else Float16())
        self.layout = Layout.over(devices, run.training.parallel)
        table = run.model.parameters()
        self.how = How(
            model=build(run.model),
            optimizer=Optimizer.of(table, run.optimizer),
            layout=self.layout,
            compute=self.precision.compute,
            recompute=run.training.recompute == "blocks",
            dropout=getattr(run.model, "dropout", 0.0) > 0.0,
        )
        self.weights = self.layout.placed(weights)
        empty = {name: np.zeros(parameter.shape, np.float32) for name, parameter in table.items()}
        self.memory = self._memory(empty, empty, 0)
        self.steps = 0
        self._last: Work | None = None

    def _memory(self, first: Arrays, second: Arrays, updates: int) -> Memory:
        return Memory(self.layout.placed(first), self.layout.placed(second), self._scalar(updates, np.int32))

    def _scalar(self, value: float, kind: Any = np.float32) -> Array:
        return jax.device_put(kind(value), self.layout.of(()))

    def describe(self) -> dict[str, str | int | float]:
        """For the manifest: what trains, where, how exactly."""
        return {
            "engine": self.name,
            "jax": jax.__version__,
            "device": describe_devices(self.devices),
            "compiled": "step",
            "precision": describe_precision(self.asked_precision, self.precision),
            **({"parallel": self.layout.words} if self.layout.words else {}),
        }

    def step(self, batch: Batch, lr: float) -> JaxStepResult:
        """One optimizer step; the micro-batches' gradients add up to that of the global batch's mean loss."""
        if batch.learned == 0:
            raise ConfigError(
                "A batch has no token to learn from.", fix="Use longer texts, or data.windows.kind=chained."
            )
        work = self._last = self._work(batch)
        self.weights, self.memory, measured = take_step(self.how, self.weights, self.memory, work, self._scalar(lr))
        self.steps += 1
        skipped = False
        if self.precision.scaled:  # fp16 overflows now and then: that step is left out and the scale lowered
            skipped = not np.isfinite(float(measured.norm))
            self.loss_scale.update(not skipped)
        result = JaxStepResult(self.steps, measured, self._scale(), skipped)
        if not skipped:
            result.read()  # no later step is to be taken where this one failed
        return result

    def _scale(self) -> dict[str, float]:
        if not self.precision.scaled:
            return {}
        return {"loss_scale": self.loss_scale.value, "skipped_steps": self.loss_scale.skipped}

    def _work(self, batch: Batch) -> Work:
        """The global batch in micro-batches of as many rows as all devices take at once."""
        size = self.layout.size
        rows = -(-min(len(batch.tokens), self.micro_batch * size) // size) * size
        count = -(-len(batch.tokens) // rows)
        tokens, targets = self._padded(batch, count * rows)
        seeds = np.array([dropout_seed(self.seed, self.steps, row) for row in range(count * rows)], np.uint64)
        lie = self.layout.rows(1)
        return Work(
            tokens=jax.device_put(tokens.reshape(count, rows, -1), lie),
            targets=jax.device_put(targets.reshape(count, rows, -1), lie),
            keys=jax.device_put(seeds.view(np.uint32).reshape(count, rows, 2), lie),
            learned=self._scalar(batch.learned),
            scale=self._scalar(self.loss_scale.value if self.precision.scaled else 1.0),
        )

    def _padded(self, batch: Batch, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """So many rows, and one of few lengths; what is added is not learned, and nothing that is looks at it."""
        time = batch.tokens.shape[1]
        if not isinstance(self.windows, Chained):
            unit = max(1, self.windows.length // LENGTHS)
            time = max(time, min(self.windows.length, -(-time // unit) * unit))
        spare = ((0, rows - len(batch.tokens)), (0, time - batch.tokens.shape[1]))
        return np.pad(batch.tokens, spare), np.pad(batch.targets, spare, constant_values=IGNORE)

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Negative log-likelihood in nats, [B T], in float32 and without dropout."""
        rows = -(-len(batch.tokens) // self.layout.size) * self.layout.size
        tokens, targets = (jax.device_put(array, self.layout.rows(0)) for array in self._padded(batch, rows))
        found = take_losses(self.how.model, self.how.compute, self.weights, tokens, targets)
        return np.array(found)[: len(batch.tokens), : batch.tokens.shape[1]]

    @contextmanager
    def evaluating(self) -> Generator[InUse]:
        """The network with its weights as they stand; not to be used after the block, when they move on."""
        yield InUse(self.how.model, self.weights, self.how.compute)

    def histograms(self) -> dict[str, Histogram]:
        """How the weights are spread, and the gradients that the last step's batch has now."""
        found = {f"weights/{name}": np.asarray(array) for name, array in self.weights.items()}
        if self._last is not None:
            gradients = take_gradients(self.how, self.weights, self._last)
            scale = np.float32(self._last.scale)
            found |= {f"gradients/{name}": np.asarray(array) / scale for name, array in gradients.items()}
        return {name: measuring_jax.histogram(values) for name, values in found.items()}

    def stopwatch(self) -> Stopwatch:
        """For the steps of this engine."""
        return measuring_jax.Stopwatch(self._wait if self.devices[0].platform == "cpu" else None)

    def _wait(self) -> None:
        jax.block_until_ready(self.weights)

    def peak_flops(self) -> float:
        """See the contract; of all devices together. Simulated ones share one machine."""
        one = measuring_jax.peak_flops(self.devices[0], self.how.compute)
        return one if self.devices[0].platform == "cpu" else one * len(self.devices)

    def peak_memory(self) -> int:
        """See the contract."""
        return measuring_jax.peak_memory(self.devices[0])

    def state(self) -> State:
        """A snapshot; dropout needs none, its seed is a function of (seed, step, row)."""
        weights, first, second = (_copied(arrays) for arrays in (self.weights, self.memory.first, self.memory.second))
        moments = {f"first.{name}": array for name, array in first.items()}
        moments |= {f"second.{name}": array for name, array in second.items()}
        numbers: dict[str, int | float] = {"step": self.steps, "updates": int(self.memory.updates)}
        if self.precision.scaled:
            numbers |= self.loss_scale.numbers()
        return State(weights, moments, numbers)

    def restore(self, state: State) -> None:
        """Go on from ``state``. Raises CheckpointError where names, shapes or numbers are missing."""
        names = [f"{moment}.{name}" for moment in ("first", "second") for name in self.weights]
        missing = [name for name in names if name not in state.moments]
        if missing or "step" not in state.numbers:
            raise CheckpointError(f"The state lacks {(missing or ['step'])[:5]}; it cannot be gone on from exactly.")
        require_fit(self.config, state.weights)
        self.weights = self.layout.placed(state.weights)
        first, second = ({n: state.moments[f"{m}.{n}"] for n in self.weights} for m in ("first", "second"))
        self.steps = int(state.numbers["step"])
        self.memory = self._memory(first, second, int(state.numbers.get("updates", self.steps)))
        self.loss_scale.restore(state.numbers)


def _copied(arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
    """On this machine's memory, not a view of what the next step overwrites."""
    return {name: np.array(array) for name, array in arrays.items()}
