"""The JAX engine: builds a family's network, takes compiled optimizer steps, evaluates, gives and takes its state."""

import importlib
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.config.data import Packed
from fabella.config.training import Float16
from fabella.data.batches import Batch
from fabella.engine.compile.compile_cache_jax import use_compile_cache
from fabella.engine.device_jax import (
    DEVICES,
    Device,
    Sharding,
    describe_devices,
    describe_precision,
    devices_of_all,
    pick_devices,
    resolve_precision,
)
from fabella.engine.distributed import process_group_jax
from fabella.engine.distributed.process_group import ProcessGroup, RankInfo
from fabella.engine.dropout import dropout_seed
from fabella.engine.engine import Histogram, State, Stopwatch
from fabella.engine.measure import step_timer_jax
from fabella.engine.optimizer_jax import Optimizer
from fabella.engine.step_guard import GuardConfig
from fabella.engine.step_guard_jax import GuardTensors
from fabella.engine.step_jax import (
    StepBatch,
    StepMetrics,
    StepSpec,
    TrainState,
    eval_losses,
    take_gradients,
    train_step,
)
from fabella.errors import CheckpointError, ConfigError
from fabella.models import IGNORE
from fabella.models.model_config import ModelConfig
from fabella.models.nn.layers_jax import Params
from fabella.models.parameters import initial_weights
from fabella.optim.registry import state_spec
from fabella.optim.updates.interface_jax import OptimizerState
from fabella.run_config.run import RunConfig

Arrays = Mapping[str, NDArray[np.float32]]

LENGTHS = 4
"""Into how many lengths windows of whole documents are padded: each is compiled once."""


def create_engine(run: RunConfig, device: str = "auto", group: ProcessGroup | None = None) -> "JaxEngine":
    """A new engine with the run's first weights and an empty optimizer."""
    weights = initial_weights(run.model.parameters(), run.seed)
    if group is not None and group.rank_info.world_size > 1:
        return JaxEngine(run, weights, devices_of_all(device), first=group.rank_info.is_main)
    return JaxEngine(run, weights, pick_devices(device, DEVICES.get()))


def init_distributed(place: RankInfo, device: str) -> AbstractContextManager[ProcessGroup]:
    """This process among the others of its training, for as long as the block lasts."""
    return process_group_jax.init_distributed(place, device)


def require_device(device: str, place: RankInfo) -> None:
    """See ``engine.require_device``."""
    pick_devices(device, DEVICES.get())


def has_gpu() -> bool:
    """Whether ``auto`` picks something faster than the CPU."""
    return jax.default_backend() != "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network with its weights, as generation and evaluation take it."""

    model: Any
    weights: dict[str, Array]
    compute: Any = jnp.float32

    @property
    def config(self) -> ModelConfig:
        """Of the family."""
        return self.model.config

    @property
    def network(self) -> Params:
        """What the model's functions take."""
        return Params(self.weights, compute=self.compute)


def load_model(config: ModelConfig, weights: Arrays, device: str = "auto") -> LoadedModel:
    """The family's network with ``weights``. Raises CheckpointError where they do not fit."""
    use_compile_cache()
    require_fit(config, weights)
    picked = pick_devices(device)[0]
    return LoadedModel(
        build(config), {name: jax.device_put(np.array(array), picked) for name, array in weights.items()}
    )


def build(config: ModelConfig) -> Any:
    """The family's ``Model``. Raises ConfigError for a family that is written for another engine only."""
    name = f"fabella.models.{config.family}_jax"
    try:
        return importlib.import_module(name).Model(config)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        raise ConfigError(
            f"model.family = {config.family!r} has no twin in JAX ({config.family}_jax.py).", hint="Use engine=torch."
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
    """What a step measured, and what is known after it, still on the device."""

    how: StepSpec
    measured: StepMetrics
    counts: GuardTensors

    def read(self) -> dict[str, float]:
        """Wait for the device. Raises NotFinite where this step, or one before it, was one too many."""
        known = self.counts.read(self.how.rules, self.how.names)
        loss, norm = float(self.measured.loss), float(self.measured.norm)
        return {"loss": loss, "grad_norm": norm if np.isfinite([loss, norm]).all() else 0.0, **known}


class JaxEngine:
    """One model in training, on one or more devices, of this machine or of others too. See engine.py for the contract.

    ``first``: whether this process is given the arrays of a state.
    """

    name = "jax"

    def __init__(self, run: RunConfig, weights: Arrays, devices: list[Device], *, first: bool = True) -> None:
        use_compile_cache()
        self.config, self.seed, self.devices, self.first = run.model, run.seed, devices, first
        self.windows, self.micro_batch = run.data.sequences, run.training.micro_batch_size
        self.asked_precision = run.training.precision
        self.precision = resolve_precision(self.asked_precision, devices[0])
        fp16 = self.asked_precision if isinstance(self.asked_precision, Float16) else Float16()
        self.layout = Sharding.over(devices, run.training.parallel)
        table = run.model.parameters()
        self.how = StepSpec(
            model=build(run.model),
            names=tuple(table),
            optimizer=Optimizer.create(table, run.optimizer),
            rules=GuardConfig.of(run.training.on_nonfinite, fp16 if self.precision.scaled else None),
            layout=self.layout,
            compute=self.precision.compute,
            recompute=run.training.gradient_checkpointing == "blocks",
            dropout=getattr(run.model, "dropout", 0.0) > 0.0,
        )
        self.state_spec = state_spec(table, run.optimizer)
        zeros = {name: np.zeros(shape, np.float32) for name, shape in self.state_spec.items()}
        self.held = self._held(weights, zeros, 0)
        self.counts = self._counts({})
        self.steps = 0
        self._last: StepBatch | None = None

    def _held(self, weights: Arrays, optimizer_state: Arrays, updates: int) -> TrainState:
        arrays = self.layout.place(optimizer_state)
        return TrainState(self.layout.place(weights), OptimizerState(arrays, self._scalar(updates, np.int32)))

    def _counts(self, numbers: Mapping[str, int | float]) -> GuardTensors:
        return GuardTensors(
            *(self._scalar(number, number.dtype.type) for number in GuardTensors.of(self.how.rules, numbers))
        )

    def _scalar(self, value: Any, kind: Any = np.float32) -> Array:
        return self.layout.put(np.asarray(value, kind), self.layout.spec(()))

    @property
    def weights(self) -> dict[str, Array]:
        """As they stand; the next step takes their place."""
        return self.held.weights

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
        if batch.num_targets == 0:
            raise ConfigError(
                "A batch has no token to learn from.", hint="Use longer texts, or data.sequences.kind=packed."
            )
        work = self._last = self._work(batch)
        self.held, self.counts, measured = train_step(self.how, self.held, self.counts, work, self._scalar(lr))
        self.steps += 1
        result = JaxStepResult(self.how, measured, self.counts)
        if not self._waits:
            result.read()
        return result

    @property
    def _waits(self) -> bool:
        """Whether a result is better looked at later, as the device is still at it; a CPU gains nothing by that."""
        return self.devices[0].platform != "cpu"

    def _work(self, batch: Batch) -> StepBatch:
        """The global batch in micro-batches of as many rows as all devices take at once."""
        size = self.layout.size
        rows = -(-min(len(batch.tokens), self.micro_batch * size) // size) * size
        count = -(-len(batch.tokens) // rows)
        tokens, targets = self._padded(batch, count * rows)
        seeds = np.array([dropout_seed(self.seed, self.steps, row) for row in range(count * rows)], np.uint64)
        lie = self.layout.rows(1)
        return StepBatch(
            tokens=self.layout.put(tokens.reshape(count, rows, -1), lie),
            targets=self.layout.put(targets.reshape(count, rows, -1), lie),
            keys=self.layout.put(seeds.view(np.uint32).reshape(count, rows, 2), lie),
            learned=self._scalar(batch.num_targets),
            step=self._scalar(self.steps + 1, np.int32),
        )

    def _padded(self, batch: Batch, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """So many rows, and one of few lengths; what is added is not learned, and nothing that is looks at it."""
        time = batch.tokens.shape[1]
        if not isinstance(self.windows, Packed):
            unit = max(1, self.windows.length // LENGTHS)
            time = max(time, min(self.windows.length, -(-time // unit) * unit))
        spare = ((0, rows - len(batch.tokens)), (0, time - batch.tokens.shape[1]))
        return np.pad(batch.tokens, spare), np.pad(batch.targets, spare, constant_values=IGNORE)

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Negative log-likelihood in nats, [B T], in float32 and without dropout."""
        rows = -(-len(batch.tokens) // self.layout.size) * self.layout.size
        tokens, targets = (self.layout.put(array, self.layout.rows(0)) for array in self._padded(batch, rows))
        found = eval_losses(self.how.model, self.how.compute, self.weights, tokens, targets)
        return self.layout.gather(found)[: len(batch.tokens), : batch.tokens.shape[1]]

    @contextmanager
    def evaluating(self) -> Generator[LoadedModel]:
        """The network with its weights as they stand; not to be used after the block, when they move on."""
        weights = self.weights
        if not self.layout.local:  # telling is this process's own affair
            here = pick_devices(self.devices[0].platform)[0]
            weights = {name: jax.device_put(self.layout.gather(array), here) for name, array in weights.items()}
        yield LoadedModel(self.how.model, weights, self.how.compute)

    def histograms(self) -> dict[str, Histogram]:
        """How the weights are spread, and the gradients that the last step's batch has now."""
        found = {f"weights/{name}": array for name, array in self.weights.items()}
        if self._last is not None:
            gradients = take_gradients(self.how, self.weights, self._last, self.counts.scale)
            found |= {f"gradients/{name}": array for name, array in gradients.items()}
        return {name: step_timer_jax.histogram(self.layout.gather(values)) for name, values in found.items()}

    def stopwatch(self) -> Stopwatch:
        """For the steps of this engine."""
        return step_timer_jax.StepTimer(None if self._waits else self._wait)

    def _wait(self) -> None:
        jax.block_until_ready(self.weights)

    def peak_flops(self) -> float:
        """See the contract; of all devices together. Simulated ones share one machine."""
        one = step_timer_jax.peak_flops(self.devices[0], self.how.compute)
        return one if self.devices[0].platform == "cpu" else one * len(self.devices)

    def peak_memory(self) -> int:
        """See the contract."""
        return step_timer_jax.peak_memory(next(iter(self.layout.mesh.local_devices)))

    def state(self) -> State:
        """A snapshot; dropout needs none, its seed is a function of (seed, step, row)."""
        weights, memory = self.held
        numbers: dict[str, int | float] = {"step": self.steps, "updates": int(memory.updates)}
        numbers |= self.counts.known().numbers(self.how.rules)
        weights = self._whole(weights)
        moments = self._whole({name: memory.arrays[name] for name in self.state_spec})
        return State(weights, moments, numbers) if self.first else State({}, {}, numbers)

    def _whole(self, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        return {name: self.layout.gather(array) for name, array in arrays.items()}

    def restore(self, state: State) -> None:
        """Go on from ``state``. Raises CheckpointError where names, shapes or numbers are missing."""
        missing = [name for name in self.state_spec if name not in state.optimizer_state]
        if missing or "step" not in state.scalars:
            raise CheckpointError(f"The state lacks {(missing or ['step'])[:5]}; it cannot be gone on from exactly.")
        require_fit(self.config, state.weights)
        self.steps = int(state.scalars["step"])
        self.held = self._held(
            state.weights,
            {name: state.optimizer_state[name] for name in self.state_spec},
            int(state.scalars.get("updates", self.steps)),
        )
        self.counts = self._counts(state.scalars)
