"""Choose and describe device and precision of a training with PyTorch."""

import json
import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.utils.deterministic

from fabella.config.training import AutoPrecision, BFloat16, Float16, Float32, PrecisionConfig
from fabella.engine.cpu.allocator import limit_primitive_caches
from fabella.engine.matmul_torch import (
    Matmul,
    MatmulChoice,
    choose_matmul,
    is_available,
    matmul_context,
    parse_matmul,
)
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError
from fabella.models.parameters import ParameterTable

SINGLE = RankInfo()
Share = Callable[[Callable[[], str]], str]
"""Calls a function on one rank, and returns its result on all ranks."""


def compute_here(function: Callable[[], str]) -> str:
    """Return the result of ``function``: the ``Share`` of a single process."""
    return function()


def pick_device(name: str, rank_info: RankInfo = SINGLE) -> torch.device:
    """Return the device of this rank; ``auto`` prefers a CUDA GPU to Apple's, and Apple's to the CPU.

    Several ranks on a machine take one GPU each, by local rank; Apple's cannot be shared. A CUDA GPU always has an
    index, and becomes the current one of this process: events, memory limits and FSDP use the current one. Raises
    ConfigError for a device that does not exist.
    """
    available = _available()
    if name == "auto":
        name = available[0] if available[0] != "mps" or rank_info.world_size == 1 else "cpu"
    if name == "cuda" and rank_info.world_size > 1:
        if rank_info.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK = {rank_info.local_rank}, but this process sees {torch.cuda.device_count()} GPU(s).",
                hint="Start one process per GPU (--devices auto), or use --device cpu. If the launcher shows each "
                "process only its own GPU (SLURM: --gpus-per-task=1), set LOCAL_RANK=0.",
            )
        return _current_gpu(rank_info.local_rank)
    kind, colon, index = name.partition(":")
    if kind not in available or (kind != "cuda" and colon and index != "0"):
        names = [item for kind in available for item in ((kind, f"{kind}:N") if kind == "cuda" else (kind,))]
        raise ConfigError(f"Unknown device {name!r}.", hint=f"Choose from: auto, {', '.join(names)}.")
    if kind == "cpu":
        limit_primitive_caches()
    return _parse_gpu(name) if kind == "cuda" else torch.device(name)


def _parse_gpu(name: str) -> torch.device:
    """Return the GPU of ``cuda`` or ``cuda:1``. Raises ConfigError for an index that does not exist."""
    _, colon, index = name.partition(":")
    if not colon:
        return _current_gpu(torch.cuda.current_device())
    count = torch.cuda.device_count()
    if not index.isdecimal() or int(index) >= count:
        raise ConfigError(f"Unknown device {name!r}: this process sees {count} GPU(s).", hint="Use --device cuda:0.")
    return _current_gpu(int(index))


def _current_gpu(index: int) -> torch.device:
    # Read at the first product: without it, cuBLAS may choose another algorithm in each repetition.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _available() -> list[str]:
    cuda = ["cuda"] if torch.cuda.is_available() else []
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *apple, "cpu"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Data type of matrix products; weights and optimizer state are always float32."""

    compute: torch.dtype
    scaled: bool
    """Whether the loss is scaled, so that small fp16 gradients do not underflow."""
    device: torch.device
    matmul: Matmul = "default"
    """How a CPU computes matrix products."""
    matmul_speedup: float = 1.0
    """Measured speed of that, relative to PyTorch's default."""

    @property
    def optimizer_dtype(self) -> torch.dtype:
        """Data type of an optimizer's products that need few digits: bfloat16 on CUDA, and on a CPU that trains in it.

        A CPU without instructions for bfloat16 emulates them.
        """
        is_fast = self.device.type == "cuda" or (self.device.type == "cpu" and self.compute == torch.bfloat16)
        return torch.bfloat16 if is_fast else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    def matmuls(self) -> AbstractContextManager[object]:
        """Return the context of forward and backward pass, in which float32 products are computed as chosen."""
        return matmul_context(self.matmul)


def resolve_precision(
    requested: PrecisionConfig,
    device: torch.device,
    parameters: ParameterTable,
    *,
    recorded_matmul: str = "",
    share: Share = compute_here,
) -> Precision:
    """Return the precision of a training of these weights: as requested on a GPU; auto decides by the device.

    On a CPU, everything but float32 means bf16 where that is fastest by measurement, and float32 elsewhere: half
    precision is several times slower than float32 on CPUs without instructions for it, and fp16 on all of them.
    ``recorded_matmul``: how an interrupted training computed matrix products on a CPU, instead of the measurement.
    ``share``: returns rank 0's result of a function, on all ranks.
    """
    if device.type == "cpu":
        return cpu_precision(requested, _matmul(parameters, recorded_matmul, share))
    if isinstance(requested, Float32):
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(requested, AutoPrecision) and device.type != "cuda":
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(requested, Float16) or (isinstance(requested, AutoPrecision) and not _has_bf16()):
        return Precision(torch.float16, scaled=True, device=device)
    return Precision(torch.bfloat16, scaled=False, device=device)


def cpu_precision(requested: PrecisionConfig, matmul: MatmulChoice) -> Precision:
    """Return the precision on a CPU that computes matrix products like this."""
    way = matmul.float32 if isinstance(requested, Float32) else matmul.fastest
    speedup = matmul.fastest_speedup if way == matmul.fastest else matmul.float32_speedup
    compute = torch.bfloat16 if way == "bf16" else torch.float32
    return Precision(compute, scaled=False, device=torch.device("cpu"), matmul=way, matmul_speedup=speedup)


def _matmul(parameters: ParameterTable, recorded: str, share: Share) -> MatmulChoice:
    """Return how all ranks compute matrix products: as recorded, or as rank 0 measures it."""
    way = parse_matmul(recorded)
    if way is not None and is_available(way):
        return MatmulChoice("default" if way == "bf16" else way, way)
    return MatmulChoice(**json.loads(share(lambda: json.dumps(asdict(choose_matmul(parameters))))))


def set_tf32(requested: PrecisionConfig, device: torch.device) -> None:
    """Let float32 products on a CUDA GPU round to 10 bits of mantissa or not, as requested."""
    if isinstance(requested, Float32) and device.type == "cuda":
        torch.set_float32_matmul_precision("high" if requested.tf32 else "highest")


def _has_bf16() -> bool:
    """Return whether the GPU multiplies bf16 in hardware; emulated, it is slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def seed_random(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of ``device``, from which dropout draws.

    ``torch.manual_seed`` gives the same numbers, but its first call imports PyTorch's compiler, which takes a second or
    more, and each call seeds the devices of all kinds.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def same_bits(device: torch.device, *, enabled: bool) -> Generator[None]:
    """Choose kernels whose result is the same in every repetition, for the duration of the block, on a CUDA GPU.

    Flash attention's backward pass and others add with atomics otherwise, in an order that varies. A kernel without
    such a version warns. A CPU has no kernel that varies.
    """
    if device.type != "cuda" or not enabled:
        yield
        return
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # costs time and changes no result
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        memory.fill_uninitialized_memory = before[1]


def describe_precision(requested: PrecisionConfig, used: Precision) -> str:
    """Return the precision in use, and the requested one if it differs: ``float32 (fp16 on GPUs)``."""
    name = str(used.compute).removeprefix("torch.")
    if isinstance(requested, AutoPrecision):
        return f"{name} (chosen for this device)"
    requested_name = {"bf16": "bfloat16", "fp16": "float16"}.get(requested.kind, requested.kind)
    if requested_name == name:
        return name
    slower = used.device.type == "cpu" and isinstance(requested, BFloat16)
    return f"{name} (bf16 is not faster on this CPU)" if slower else f"{name} ({requested.kind} on GPUs)"


def describe_device(device: torch.device) -> str:
    """Return ``cpu, 2 threads`` or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type}{threads}"
