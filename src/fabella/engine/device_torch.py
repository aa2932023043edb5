"""Choose and describe device and precision of a training with PyTorch."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fabella.config.training import AutoPrecision, Float16, Float32, PrecisionConfig
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError

SINGLE = RankInfo()


def pick_device(name: str, rank_info: RankInfo = SINGLE) -> torch.device:
    """Return the device of this rank; ``auto`` prefers a CUDA GPU to Apple's, and Apple's to the CPU.

    Several ranks on a machine take one GPU each, by local rank; Apple's cannot be shared. Raises ConfigError for a
    device that does not exist.
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
        return torch.device("cuda", rank_info.local_rank)
    if name.split(":")[0] not in available:
        raise ConfigError(f"Unknown device {name!r}.", hint=f"Choose from: auto, {', '.join(available)}.")
    return torch.device(name)


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

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)


def resolve_precision(requested: PrecisionConfig, device: torch.device) -> Precision:
    """Return the precision to use: float32 on a CPU, as requested on a GPU; auto decides by the device.

    Half precision is several times slower than float32 on most CPUs (measured 5× for bf16 on AVX-512 without AMX).
    """
    if device.type == "cpu" or isinstance(requested, Float32):
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(requested, AutoPrecision) and device.type != "cuda":
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(requested, Float16) or (isinstance(requested, AutoPrecision) and not _has_bf16()):
        return Precision(torch.float16, scaled=True, device=device)
    return Precision(torch.bfloat16, scaled=False, device=device)


def _has_bf16() -> bool:
    """Return whether the GPU multiplies bf16 in hardware; emulated, it is slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def describe_precision(requested: PrecisionConfig, used: Precision) -> str:
    """Return the precision in use, and the requested one if it differs: ``float32 (fp16 on GPUs)``."""
    name = str(used.compute).removeprefix("torch.")
    if isinstance(requested, AutoPrecision):
        return f"{name} (chosen for this device)"
    requested_name = {"bf16": "bfloat16", "fp16": "float16"}.get(requested.kind, requested.kind)
    return name if requested_name == name else f"{name} ({requested.kind} on GPUs)"


def describe_device(device: torch.device) -> str:
    """Return ``cpu, 2 threads`` or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type}{threads}"
