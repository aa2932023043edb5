"""The JAX engine: builds a family's network, takes compiled steps, evaluates, saves and restores its state."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.engine.build_model_jax import Arrays, LoadedModel, build, require_fit
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
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import Histogram, State, Timer, dropout_seed
from fabella.engine.measure import step_timer_jax
from fabella.engine.optimizer_jax import Optimizer
from fabella.engine.rank import RankInfo
from fabella.engine.step_guard import GuardConfig, loss_scaling
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
from fabella.models.parameters import initial_weights
from fabella.optim.updates.interface_jax import OptimizerState
from fabella.run_config.run import RunConfig

PADDED_LENGTHS = 4
"""Number of lengths that sequences of whole documents are padded to; a step is compiled for each."""


def create_engine(
    run: RunConfig,
    device: str = "auto",
    group: ProcessGroup | None = None,
    recorded: Mapping[str, str] = MappingProxyType({}),
) -> "JaxEngine":
    """Return a new engine with the run's initial weights and an empty optimizer state."""
    del recorded  # XLA has one way to compute products on a CPU
    weights = initial_weights(run.model.parameters(), run.seed)
    if group is not None and group.rank_info.world_size > 1:
        return JaxEngine(run, weights, devices_of_all(device), is_main=group.rank_info.is_main)
    return JaxEngine(run, weights, pick_devices(device, DEVICES.get()))


def require_device(device: str, rank_info: RankInfo) -> None:
    """Raise ConfigError if this machine has no such device, or not enough of them."""
    pick_devices(device, DEVICES.get())


def has_gpu() -> bool:
    """Return whether ``auto`` picks a device other than the CPU."""
    return jax.default_backend() != "cpu"


@dataclass(frozen=True, slots=True)
class JaxStepResult:
    """Loss, gradient norm and counters of the step guard after a step, still on the device."""

    spec: StepSpec
    metrics: StepMetrics
    tensors: GuardTensors

    def read(self) -> dict[str, float]:
        """Wait for the device. Raises NonFiniteStepError after a failure, of this step or an earlier one."""
        counters = self.tensors.read(self.spec.guard, self.spec.names)
        loss, norm = float(self.metrics.loss), float(self.metrics.norm)
        return {"loss": loss, "grad_norm": norm if np.isfinite([loss, norm]).all() else float("nan"), **counters}


class JaxEngine:
    """One model in training on one or more devices, of one or more processes. engine.py has the contract.

    ``is_main``: whether ``state()`` returns the arrays to this process.
    """

    name = "jax"

    def __init__(self, run: RunConfig, weights: Arrays, devices: list[Device], *, is_main: bool = True) -> None:
        self.config, self.seed, self.devices, self.is_main = run.model, run.seed, devices, is_main
        self.sequences, self.micro_batch_size = run.data.sequences, run.training.micro_batch_size
        self.requested_precision = run.training.precision
        self.precision = resolve_precision(self.requested_precision, devices[0])
        self.sharding = Sharding.over(devices, run.training.parallel)
        table = run.trainable_parameters
        self.spec = StepSpec(
            model=build(run.model),
            names=tuple(table),
            optimizer=Optimizer.create(table, run.optimizer),
            guard=GuardConfig.create(
                run.training.on_nonfinite, loss_scaling(self.requested_precision, scaled=self.precision.scaled)
            ),
            sharding=self.sharding,
            compute=self.precision.compute,
            gradient_checkpointing=run.training.gradient_checkpointing == "blocks",
            dropout=getattr(run.model, "dropout", 0.0) > 0.0,
        )
        zeros = self.spec.optimizer.initial_state()
        self.state_names = tuple(zeros)
        self.train_state = self._train_state(weights, zeros, 0)
        self.average = self.spec.optimizer.create_average(self.sharding)
        self.guard_tensors = self._guard_tensors({})
        self.steps = 0
        self._last: StepBatch | None = None

    def _train_state(self, weights: Arrays, optimizer_state: Arrays, updates: int) -> TrainState:
        arrays = self.sharding.place(optimizer_state)
        return TrainState(self.sharding.place(weights), OptimizerState(arrays, self._scalar(updates, np.int32)))

    def _guard_tensors(self, scalars: Mapping[str, int | float]) -> GuardTensors:
        return GuardTensors(
            *(self._scalar(number, number.dtype.type) for number in GuardTensors.from_scalars(self.spec.guard, scalars))
        )

    def _scalar(self, value: Any, kind: Any = np.float32) -> Array:
        return self.sharding.put(np.asarray(value, kind), self.sharding.spec(()))

    @property
    def weights(self) -> dict[str, Array]:
        """The current weights; the next step overwrites their memory."""
        return self.train_state.weights

    def describe(self) -> dict[str, str | int | float]:
        """Return devices, precision and versions, for the manifest and for people."""
        return {
            "engine": self.name,
            "jax": jax.__version__,
            "device": describe_devices(self.devices),
            "compiled": "step",
            "precision": describe_precision(self.requested_precision, self.precision),
            **({"parallel": self.sharding.description} if self.sharding.description else {}),
        }

    def step(self, batch: Batch, lr: float) -> JaxStepResult:
        """Take one optimizer step. The micro-batches' gradients add up to that of the global batch's mean loss."""
        if batch.num_targets == 0:
            raise ConfigError("A batch has no targets.", hint="Use longer documents, or data.sequences.kind=packed.")
        step_batch = self._last = self._step_batch(batch)
        self.train_state, self.guard_tensors, metrics = train_step(
            self.spec, self.train_state, self.guard_tensors, step_batch, self._scalar(lr)
        )
        self.steps += 1
        self.average.update(self.steps, self.weights, metrics.applied)
        result = JaxStepResult(self.spec, metrics, self.guard_tensors)
        if not self._waits:
            result.read()
        return result

    @property
    def _waits(self) -> bool:
        """Whether reading a result at once would wait for the device; a CPU has finished it already."""
        return self.devices[0].platform != "cpu"

    def _step_batch(self, batch: Batch) -> StepBatch:
        """Cut the global batch into micro-batches of the rows that all devices compute at once."""
        size = self.sharding.size
        rows = -(-min(len(batch.tokens), self.micro_batch_size * size) // size) * size
        count = -(-len(batch.tokens) // rows)
        padded = self._padded(batch, count * rows)
        seeds = np.array([dropout_seed(self.seed, self.steps, row) for row in range(count * rows)], np.uint64)
        by_rows = self.sharding.rows(1)
        return StepBatch(
            tokens=self.sharding.put(padded.tokens.reshape(count, rows, -1), by_rows),
            targets=self.sharding.put(padded.targets.reshape(count, rows, -1), by_rows),
            document_starts=None
            if padded.document_starts is None
            else self.sharding.put(padded.document_starts.reshape(count, rows, -1), by_rows),
            keys=self.sharding.put(seeds.view(np.uint32).reshape(count, rows, 2), by_rows),
            num_targets=self._scalar(batch.num_targets),
            step=self._scalar(self.steps + 1, np.int32),
        )

    def _padded(self, batch: Batch, rows: int) -> Batch:
        """Pad to ``rows`` rows and to one of PADDED_LENGTHS lengths. Padding has no targets; nothing attends to it."""
        time = batch.tokens.shape[1]
        if self.sequences.kind != "packed":
            unit = max(1, self.sequences.length // PADDED_LENGTHS)
            time = max(time, min(self.sequences.length, -(-time // unit) * unit))
        return batch.padded(rows, time)

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Return the loss of each target in nats, [B T] float32, without dropout."""
        rows = -(-len(batch.tokens) // self.sharding.size) * self.sharding.size
        padded = self._padded(batch, rows)
        tokens, targets, starts = (
            None if array is None else self.sharding.put(array, self.sharding.rows(0))
            for array in (padded.tokens, padded.targets, padded.document_starts)
        )
        losses = eval_losses(self.spec.model, self.spec.compute, self.weights, tokens, targets, starts)
        return self.sharding.gather(losses)[: len(batch.tokens), : batch.tokens.shape[1]]

    @contextmanager
    def evaluating(self) -> Generator[LoadedModel]:
        """Provide the network with its current weights during the block; the next step overwrites them."""
        weights = self.weights
        if not self.sharding.local:  # each process generates by itself
            local_device = pick_devices(self.devices[0].platform)[0]
            weights = {
                name: jax.device_put(self.sharding.gather(array), local_device) for name, array in weights.items()
            }
        yield LoadedModel(self.spec.model, weights, self.spec.compute)

    def has_average(self) -> bool:
        """Return whether weights have been averaged. Waits for the device."""
        return self.average.count > 0

    @contextmanager
    def using_average(self) -> Generator[None]:
        """Take the average in place of the weights during the block."""
        trained = self.train_state
        self.train_state = trained._replace(weights={**trained.weights, **self.average.after.arrays})
        try:
            yield
        finally:
            self.train_state = trained

    def histograms(self) -> dict[str, Histogram]:
        """Return histograms of the weights, and of the gradients of the last step's batch at these weights."""
        arrays = {f"weights/{name}": array for name, array in self.weights.items()}
        if self._last is not None:
            gradients = take_gradients(self.spec, self.weights, self._last, self.guard_tensors.loss_scale)
            arrays |= {f"gradients/{name}": array for name, array in gradients.items()}
        return {name: step_timer_jax.histogram(self.sharding.gather(values)) for name, values in arrays.items()}

    def stopwatch(self) -> Timer:
        """Return a timer for the steps of this engine."""
        return step_timer_jax.StepTimer(None if self._waits else self._wait)

    def _wait(self) -> None:
        jax.block_until_ready(self.weights)

    def peak_flops(self) -> float:
        """Return the peak FLOP/s of all devices; simulated CPU devices share one machine."""
        per_device = step_timer_jax.peak_flops(self.devices[0], self.spec.compute)
        return per_device if self.devices[0].platform == "cpu" else per_device * len(self.devices)

    def peak_memory(self) -> int:
        """Return the peak memory in bytes: of one device, or of this process where it has no own memory."""
        return step_timer_jax.peak_memory(next(iter(self.sharding.mesh.local_devices)))

    def state(self) -> State:
        """Return a snapshot. Dropout has no state: its seed is a function of (seed, step, row)."""
        weights, optimizer_state = self.train_state
        scalars: dict[str, int | float] = {"step": self.steps, "updates": int(optimizer_state.updates)}
        scalars |= self.guard_tensors.state().scalars(self.spec.guard) | self.average.scalars()
        weights = self._gathered(weights)
        arrays = self._gathered({name: optimizer_state.arrays[name] for name in self.state_names})
        average = self.average.state()
        return State(weights, arrays, scalars, average) if self.is_main else State({}, {}, scalars)

    def _gathered(self, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        return {name: self.sharding.gather(array) for name, array in arrays.items()}

    def reset_optimizer(self) -> None:
        """Return to the optimizer state before the first step."""
        arrays = self.sharding.place(self.spec.optimizer.initial_state())
        self.train_state = TrainState(self.weights, OptimizerState(arrays, self._scalar(0, np.int32)))

    def restore(self, state: State) -> None:
        """Continue from ``state``. Raises CheckpointError if names or shapes differ."""
        missing = [name for name in self.state_names if name not in state.optimizer_state]
        if missing or "step" not in state.scalars:
            names = ", ".join((missing or ["step"])[:5])
            raise CheckpointError(
                f"Checkpoint has no optimizer state for {names}; training cannot resume exactly.",
                hint="Resume from another checkpoint, or with a fresh optimizer: fabella resume RUN --reset-optimizer.",
            )
        require_fit(self.config, state.weights)
        self.steps = int(state.scalars["step"])
        self.train_state = self._train_state(
            state.weights,
            {name: state.optimizer_state[name] for name in self.state_names},
            int(state.scalars.get("updates", self.steps)),
        )
        self.average.restore(state.average, state.scalars)
        self.guard_tensors = self._guard_tensors(state.scalars)
