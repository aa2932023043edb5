"""The PyTorch engine: builds a family's model, takes optimizer steps, evaluates, saves and restores its state."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fabella.data.batches import Batch
from fabella.engine.build_model_torch import build, require_fit
from fabella.engine.compile.compile_torch import prepare_blocks
from fabella.engine.cpu.cpu_training_torch import CpuTraining, prepare_cpu_training
from fabella.engine.device_torch import (
    Precision,
    describe_device,
    describe_precision,
    pick_device,
    resolve_precision,
    same_bits,
    seed_random,
    set_tf32,
)
from fabella.engine.distributed.parallelize_torch import parallelize
from fabella.engine.distributed.process_group import ProcessGroup, SingleProcess
from fabella.engine.engine import Histogram, State, Timer, dropout_seed
from fabella.engine.measure import step_timer_torch
from fabella.engine.optimizer_torch import Optimizer
from fabella.engine.rank import RankInfo
from fabella.engine.step_guard_torch import GuardTensors, StepGuard
from fabella.errors import CheckpointError, ConfigError
from fabella.models.parameters import initial_weights
from fabella.run_config.run import RunConfig


def create_engine(
    run: RunConfig,
    device: str = "auto",
    group: ProcessGroup | None = None,
    recorded: Mapping[str, str] = MappingProxyType({}),
) -> "TorchEngine":
    """Return a new engine with the run's initial weights and an empty optimizer state."""
    group = group or SingleProcess()
    table = run.model.parameters()
    torch_device = pick_device(device, group.rank_info)

    def share(compute: Callable[[], str]) -> str:
        return group.broadcast(compute() if group.rank_info.is_main else "")

    precision = resolve_precision(
        run.training.precision,
        torch_device,
        table,
        recorded_matmul=recorded.get("matmul", ""),
        share=share,
    )
    cpu = prepare_cpu_training(torch_device, share, recorded.get("kernels", ""))
    return TorchEngine(run, initial_weights(table, run.seed), precision, group, cpu)


def require_device(device: str, rank_info: RankInfo) -> None:
    """Raise ConfigError if this machine has no such device for this process."""
    pick_device(device, rank_info)


def has_gpu() -> bool:
    """Return whether ``auto`` picks a device other than the CPU."""
    return pick_device("auto").type != "cpu"


@dataclass(frozen=True, slots=True)
class TorchStepResult:
    """Loss, gradient norm and counters of the step guard after a step, still on the device."""

    loss: Tensor
    norm: Tensor
    tensors: GuardTensors
    guard: StepGuard

    def read(self) -> dict[str, float]:
        """Wait for the device. Raises NonFiniteStepError after a failure, of this step or an earlier one."""
        counters = self.guard.read(self.tensors)
        loss, norm = torch.stack([self.loss, self.norm]).tolist()
        return {"loss": loss, "grad_norm": norm if np.isfinite([loss, norm]).all() else float("nan"), **counters}


def waits(device: torch.device) -> bool:
    """Return whether reading a result at once would wait for the device; a CPU has finished it already."""
    return device.type != "cpu"


class TorchEngine:
    """One model in training on this rank's device. engine.py has the contract."""

    name = "torch"

    def __init__(
        self,
        run: RunConfig,
        weights: Mapping[str, NDArray[np.float32]],
        precision: Precision,
        group: ProcessGroup,
        cpu: CpuTraining,
    ) -> None:
        self.config = run.model
        self.seed = run.seed
        self.micro_batch_size = run.training.micro_batch_size
        self.requested_precision, self.deterministic = run.training.precision, run.training.deterministic
        self.precision, self.cpu, device = precision, cpu, precision.device
        self.device = device
        set_tf32(self.requested_precision, device)
        self.guard = StepGuard.create(run.training, device, scaled=self.precision.scaled)
        model = build(run.model, weights, device).train()
        trainable = run.trainable_parameters
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)
        self.compiled, self.compile_cache = prepare_blocks(model, run, device, kernels=cpu.library is not None)
        self.strategy = parallelize(model, group, run.training.parallel)
        self.model: Any = self.strategy.model
        self.optimizer = Optimizer(self.strategy, trainable, run.optimizer, self.precision.optimizer_dtype)
        self.steps = 0

    def describe(self) -> dict[str, str | int | float]:
        """Return device, precision, threads and versions, for the manifest and for people."""
        return {
            "engine": self.name,
            "torch": torch.__version__,
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "compiled": "blocks" if self.compiled else "nothing",
            "precision": describe_precision(self.requested_precision, self.precision),
            **self._describe_cpu(),
            "tf32": str(self.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"),
            **({"parallel": self.strategy.description} if self.strategy.description else {}),
        }

    def _describe_cpu(self) -> dict[str, str | float]:
        if self.device.type != "cpu":
            return {}
        speedup = round(self.precision.matmul_speedup, 1)
        measured: dict[str, str | float] = {"matmul_speedup": speedup} if speedup > 1.0 else {}
        warning = {"kernels_warning": self.cpu.warning} if self.cpu.warning else {}
        return {"matmul": self.precision.matmul, **measured, "kernels": self.cpu.describe(), **warning}

    def step(self, batch: Batch, lr: float) -> TorchStepResult:
        """Take one optimizer step. The micro-batches' gradients add up to that of the global batch's mean loss."""
        if batch.num_targets == 0:
            raise ConfigError("A batch has no targets.", hint="Use longer documents, or data.sequences.kind=packed.")
        self.optimizer.zero_grad()  # kept until now for the callbacks of the previous step
        with self.precision.matmuls(), self.cpu.context(), same_bits(self.device, enabled=self.deterministic):
            loss = self._forward_backward(batch)
            self.compile_cache.mark_complete()
            return self._update(self.strategy.mean_loss(loss), lr)

    def _forward_backward(self, batch: Batch) -> Tensor:
        """Add up the gradients of the micro-batches, and return this rank's share of the loss."""
        total = torch.zeros((), device=self.device)
        rows = self.strategy.local_rows(len(batch.tokens))
        for start in rows[:: self.micro_batch_size]:
            micro_batch = slice(start, min(start + self.micro_batch_size, rows.stop))
            inputs = self._inputs(batch, micro_batch)
            # Gradients are averaged over the ranks; times their number, the sum is the global batch's mean.
            share = int((batch.targets[micro_batch] >= 0).sum()) / batch.num_targets * self.strategy.size
            seed_random(dropout_seed(self.seed, self.steps, start), self.device)
            with self.strategy.no_sync(last=micro_batch.stop == rows.stop):
                with self.precision.autocast():
                    loss = self.strategy.loss(*inputs) * share
                (loss * self.guard.tensors.loss_scale if self.precision.scaled else loss).backward()
            total += loss.detach()
            self.cpu.after_pass()
        return total

    def _inputs(self, batch: Batch, rows: slice) -> tuple[Tensor, ...]:
        """Return tokens, targets and, if documents are masked, document starts of some rows on the device."""
        inputs = self._to_device(batch.tokens[rows]), self._to_device(batch.targets[rows])
        if batch.document_starts is None:
            return inputs
        return *inputs, self._to_device(batch.document_starts[rows]).int()

    def _to_device(self, array: NDArray[np.int32]) -> Tensor:
        """Return int64 ids on the device. Pinned memory lets a CUDA GPU copy them while it computes.

        Any other copy is finished here: its source, ordinary memory, is reused as soon as the batch is dropped.
        """
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor.to(self.device).long()
        return tensor.pin_memory().to(self.device, non_blocking=True).long()

    def _update(self, loss: Tensor, lr: float) -> TorchStepResult:
        """Apply the step if it is finite, decided without waiting for a GPU."""
        gradients_by_name = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        gradients = list(gradients_by_name.values())
        if self.precision.scaled:
            torch._foreach_mul_(gradients, 1.0 / self.guard.tensors.loss_scale)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        norms = self.strategy.grad_norms(gradients)
        norm = torch.linalg.vector_norm(norms)
        self.steps += 1
        self.guard.names = list(gradients_by_name)
        apply_update = self.guard.check(self.steps, loss, norm, norms)
        # A non-finite step is skipped here. On a CUDA GPU the rule decides on the device, so that no step waits for it;
        # the fused AdamW of Apple's GPUs ignores the decision.
        if self.device.type == "cuda" or bool(apply_update):
            self.optimizer.clip(norm)
            self.optimizer.rule.step(lr, apply_update)
            self.optimizer.average.update(self.steps, apply_update)
        result = TorchStepResult(loss, norm, self.guard.tensors, self.guard)
        if not waits(self.device):
            result.read()
        return result

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Return the loss of each target in nats, [B T] float32, without dropout."""
        self.model.eval()
        try:
            # Not inference_mode: FSDP keeps the buffers of its first pass for training.
            with torch.no_grad(), self.precision.matmuls():
                values = self.strategy.losses(*self._inputs(batch, slice(None)))
        finally:
            self.model.train()
            self.cpu.after_pass()
        return values.float().cpu().numpy()

    @contextmanager
    def evaluating(self) -> Generator[Any]:
        """Provide the model without dropout for the duration of the block."""
        try:
            yield self.strategy.eval_model()
        finally:
            self.model.train()

    def has_average(self) -> bool:
        """Return whether weights have been averaged. Waits for the device."""
        return int(self.optimizer.average.count) > 0

    @contextmanager
    def using_average(self) -> Generator[None]:
        """Exchange the weights and their average during the block."""
        self.optimizer.average.swap()
        try:
            yield
        finally:
            self.optimizer.average.swap()

    def histograms(self) -> dict[str, Histogram]:
        """Return histograms of the weights and of the last step's gradients."""
        return step_timer_torch.histograms(self.model)

    def stopwatch(self) -> Timer:
        """Return a timer for the steps of this engine."""
        return step_timer_torch.StepTimer(self.device)

    def peak_flops(self) -> float:
        """Return the peak FLOP/s of all ranks' devices in the precision of training."""
        per_device = step_timer_torch.peak_flops(self.device, self.precision.compute, torch.get_num_threads())
        return per_device * self.strategy.size

    def peak_memory(self) -> int:
        """Return the peak memory in bytes: of the GPU, or of this process on a CPU."""
        return step_timer_torch.peak_memory(self.device)

    def state(self) -> State:
        """Return a snapshot. Dropout has no state: its seed is a function of (seed, step, row)."""
        weights = self.strategy.to_numpy(dict(self.model.named_parameters()))
        scalars: dict[str, int | float] = {"step": self.steps, "updates": self.optimizer.updates()}
        average = self.optimizer.average
        scalars |= self.guard.scalars() | average.scalars()
        return State(weights, self.optimizer.state(), scalars, average.state())

    def reset_optimizer(self) -> None:
        """Return to the optimizer state before the first step."""
        self.optimizer.reset()

    def restore(self, state: State) -> None:
        """Continue from ``state``. Raises CheckpointError if names or shapes differ."""
        missing = [name for name in self.optimizer.state_names if name not in state.optimizer_state]
        if missing or "step" not in state.scalars:
            names = ", ".join((missing or ["step"])[:5])
            raise CheckpointError(
                f"Checkpoint has no optimizer state for {names}; training cannot resume exactly.",
                hint="Resume from another checkpoint, or with a fresh optimizer: fabella resume RUN --reset-optimizer.",
            )
        self._load_weights(state.weights)
        self.steps = int(state.scalars["step"])
        self.optimizer.restore(state.optimizer_state, int(state.scalars.get("updates", self.steps)))
        self.optimizer.average.restore(state.average, state.scalars)
        self.guard.restore(state.scalars)

    @torch.no_grad()
    def _load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        require_fit(self.model, weights)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.strategy.from_numpy(weights[name], parameter))
