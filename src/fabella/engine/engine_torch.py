"""The PyTorch engine: builds a family's model, takes optimizer steps, evaluates, gives and takes its state."""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fabella.config.training import Float16, Float32
from fabella.data.batches import Batch
from fabella.engine.build_model_torch import build, require_fit
from fabella.engine.compile.compile_cache_torch import CompileCache, use_compile_cache
from fabella.engine.compile.compile_torch import compile_blocks, is_compiled
from fabella.engine.compile.gradient_checkpointing_torch import recompute_blocks
from fabella.engine.device_torch import describe_device, describe_precision, pick_device, resolve_precision
from fabella.engine.distributed import process_group_torch
from fabella.engine.distributed.parallelize_torch import parallelize
from fabella.engine.distributed.process_group import ProcessGroup, RankInfo, SingleProcess
from fabella.engine.dropout import dropout_seed
from fabella.engine.engine import Histogram, State, Stopwatch
from fabella.engine.measure import step_timer_torch
from fabella.engine.optimizer_torch import Optimizer
from fabella.engine.step_guard_torch import GuardTensors, StepGuard
from fabella.errors import CheckpointError, ConfigError
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.run_config.run import RunConfig


def create_engine(run: RunConfig, device: str = "auto", group: ProcessGroup | None = None) -> "TorchEngine":
    """A new engine with the run's first weights and an empty optimizer."""
    group = group or SingleProcess()
    weights = initial_weights(run.model.parameters(), run.seed)
    return TorchEngine(run, weights, pick_device(device, group.rank_info), group)


def init_distributed(place: RankInfo, device: str) -> AbstractContextManager[ProcessGroup]:
    """See ``engine.joined``."""
    return process_group_torch.init_distributed(place, pick_device(device, place))


def require_device(device: str, place: RankInfo) -> None:
    """See ``engine.require_device``."""
    pick_device(device, place)


def load_model(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], device: str = "auto") -> nn.Module:
    """The family's model with ``weights``, in evaluation mode. Raises CheckpointError where they do not fit."""
    return build(config, weights, pick_device(device)).eval().requires_grad_(False)


def has_gpu() -> bool:
    """Whether ``auto`` picks something faster than the CPU."""
    return pick_device("auto").type != "cpu"


@dataclass(frozen=True, slots=True)
class TorchStepResult:
    """Loss and gradient norm of a step, and what is known after it, still on the device."""

    loss: Tensor
    norm: Tensor
    counts: GuardTensors
    ledger: StepGuard

    def read(self) -> dict[str, float]:
        """Wait for the device. Raises NotFinite where this step, or one before it, was one too many."""
        known = self.ledger.read(self.counts)
        loss, norm = torch.stack([self.loss, self.norm]).tolist()
        return {"loss": loss, "grad_norm": norm if np.isfinite([loss, norm]).all() else 0.0, **known}


def waits(device: torch.device) -> bool:
    """Whether a result is better looked at later, as the device is still at it; on a CPU nothing is gained by that."""
    return device.type != "cpu"


class TorchEngine:
    """One model in training, on this process's device. See engine.py for the contract."""

    name = "torch"

    def __init__(
        self, run: RunConfig, weights: Mapping[str, NDArray[np.float32]], device: torch.device, group: ProcessGroup
    ) -> None:
        self.config = run.model
        self.seed = run.seed
        self.micro_batch = run.training.micro_batch_size
        self.asked_precision = run.training.precision
        self.device = device
        self.precision = resolve_precision(self.asked_precision, device)
        if isinstance(self.asked_precision, Float32) and device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.asked_precision.tf32
        fp16 = self.asked_precision if isinstance(self.asked_precision, Float16) else Float16()
        self.ledger = StepGuard(run.training.on_nonfinite, fp16 if self.precision.scaled else None, device)
        model = build(run.model, weights, device).train()
        self.compiled = is_compiled(run, device)
        self.kernels = use_compile_cache() if self.compiled else CompileCache()
        if self.compiled:
            compile_blocks(model)
        if run.training.gradient_checkpointing == "blocks":
            recompute_blocks(model)
        self.parallel = parallelize(model, group, run.training.parallel)
        self.model: Any = self.parallel.model
        self.optimizer = Optimizer(self.parallel, run.model.parameters(), run.optimizer)
        self.steps = 0

    def describe(self) -> dict[str, str | int | float]:
        """For the manifest: what trains, where, how exactly."""
        return {
            "engine": self.name,
            "torch": torch.__version__,
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "compiled": "blocks" if self.compiled else "nothing",
            "precision": describe_precision(self.asked_precision, self.precision),
            "tf32": str(torch.backends.cuda.matmul.allow_tf32),
            **({"parallel": self.parallel.description} if self.parallel.description else {}),
        }

    def step(self, batch: Batch, lr: float) -> TorchStepResult:
        """One optimizer step; the micro-batches' gradients add up to that of the global batch's mean loss."""
        learned = batch.num_targets
        if learned == 0:
            raise ConfigError(
                "A batch has no token to learn from.", hint="Use longer texts, or data.sequences.kind=packed."
            )
        self.optimizer.zero_grad()  # of the step before; until now whoever looks on could see them
        total = torch.zeros((), device=self.device)
        mine = self.parallel.local_rows(len(batch.tokens))
        for start in mine[:: self.micro_batch]:
            part = slice(start, min(start + self.micro_batch, mine.stop))
            tokens, targets = self._to_device(batch.tokens[part]), self._to_device(batch.targets[part])
            # Gradients are averaged over the processes: times their number it is the global batch's mean again.
            share = int((batch.targets[part] >= 0).sum()) / learned * self.parallel.size
            torch.manual_seed(dropout_seed(self.seed, self.steps, start))
            with self.parallel.no_sync(last=part.stop == mine.stop):
                with self.precision.autocast():
                    loss = self.parallel.loss(tokens, targets) * share
                (loss * self.ledger.counts.scale if self.precision.scaled else loss).backward()
            total += loss.detach()
        self.kernels.mark_complete()
        return self._update(self.parallel.mean_loss(total), lr)

    def _to_device(self, array: NDArray[np.int32]) -> Tensor:
        """As ids that embeddings take. To a GPU they are copied beside its work, which only pinned memory allows."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True).long()

    def _update(self, loss: Tensor, lr: float) -> TorchStepResult:
        """Take the step, if it is finite. On a GPU nothing here waits to know whether it is."""
        named = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        gradients = list(named.values())
        if self.precision.scaled:
            torch._foreach_mul_(gradients, 1.0 / self.ledger.counts.scale)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        norms = self.parallel.grad_norms(gradients)
        norm = torch.linalg.vector_norm(norms)
        self.steps += 1
        self.ledger.names = list(named)
        apply_update = self.ledger.check(self.steps, loss, norm, norms)
        self.optimizer.step(lr, norm, apply_update)
        result = TorchStepResult(loss, norm, self.ledger.counts, self.ledger)
        if not waits(self.device):
            result.read()
        return result

    def losses(self, batch: Batch) -> NDArray[np.float32]:
        """Negative log-likelihood in nats, [B T], in float32 and without dropout."""
        self.model.eval()
        try:
            with torch.inference_mode():
                values = self.parallel.losses(self._to_device(batch.tokens), self._to_device(batch.targets))
        finally:
            self.model.train()
        return values.float().cpu().numpy()

    @contextmanager
    def evaluating(self) -> Generator[Any]:
        """The model without dropout for as long as the block lasts."""
        try:
            yield self.parallel.eval_model()
        finally:
            self.model.train()

    def histograms(self) -> dict[str, Histogram]:
        """How the weights, and the gradients of the last step, are spread."""
        return step_timer_torch.histograms(self.model)

    def stopwatch(self) -> Stopwatch:
        """For the steps of this engine."""
        return step_timer_torch.StepTimer(self.device)

    def peak_flops(self) -> float:
        """See the contract; in the precision that the matrices are multiplied in, of all processes' devices."""
        one = step_timer_torch.peak_flops(self.device, self.precision.compute, torch.get_num_threads())
        return one * self.parallel.size

    def peak_memory(self) -> int:
        """See the contract."""
        return step_timer_torch.peak_memory(self.device)

    def state(self) -> State:
        """A snapshot; dropout needs none, its seed is a function of (seed, step, row)."""
        weights = self.parallel.to_numpy(dict(self.model.named_parameters()))
        numbers: dict[str, int | float] = {"step": self.steps, "updates": self.optimizer.updates()}
        return State(weights, self.optimizer.state(), numbers | self.ledger.numbers())

    def restore(self, state: State) -> None:
        """Go on from ``state``. Raises CheckpointError where names, shapes or numbers are missing."""
        missing = [name for name in self.optimizer.state_names if name not in state.optimizer_state]
        if missing or "step" not in state.scalars:
            raise CheckpointError(f"The state lacks {(missing or ['step'])[:5]}; it cannot be gone on from exactly.")
        self._load_weights(state.weights)
        self.steps = int(state.scalars["step"])
        self.optimizer.restore(state.optimizer_state, int(state.scalars.get("updates", self.steps)))
        self.ledger.restore(state.scalars)

    @torch.no_grad()
    def _load_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        require_fit(self.model, weights)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.parallel.from_numpy(weights[name], parameter))
