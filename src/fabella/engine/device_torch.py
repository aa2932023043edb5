"""Which device and which precision PyTorch trains in, chosen in one place and said in words."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fabella.config.training import AutoPrecision, Float16, Float32
from fabella.config.training import PrecisionConfig as Asked
from fabella.engine.distributed.process_group import RankInfo
from fabella.errors import ConfigError

ALONE = RankInfo()


def pick_device(name: str, place: RankInfo = ALONE) -> torch.device:
    """``auto``: a CUDA GPU where there is one, else Apple's, else the CPU.

    Of several processes on a machine, each takes the GPU of its own number; Apple's cannot be shared. Raises
    ConfigError for one that is not there.
    """
    available = _available()
    if name == "auto":
        name = available[0] if available[0] != "mps" or place.world_size == 1 else "cpu"
    if name == "cuda" and place.world_size > 1:
        if place.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{place.local_world_size} processes on this machine, but it has {torch.cuda.device_count()} GPUs.",
                hint="Use --devices auto, or --device cpu.",
            )
        return torch.device("cuda", place.local_rank)
    if name.split(":")[0] not in available:
        raise ConfigError(f"Device '{name}' is not there.", hint=f"Choose from: auto, {', '.join(available)}.")
    return torch.device(name)


def _available() -> list[str]:
    cuda = ["cuda"] if torch.cuda.is_available() else []
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *apple, "cpu"]


@dataclass(frozen=True, slots=True)
class Precision:
    """``compute`` is the type of matrix products; weights and moments are always float32."""

    compute: torch.dtype
    scaled: bool
    """Whether the loss is scaled, so that small fp16 gradients do not vanish."""
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)


def resolve_precision(asked: Asked, device: torch.device) -> Precision:
    """The precision used on ``device``: what was asked on a GPU, float32 on a CPU; auto decides by the device.

    Half precision is several times slower than float32 on most CPUs (measured 5× for bf16 on AVX-512 without AMX).
    """
    if device.type == "cpu" or isinstance(asked, Float32):
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(asked, AutoPrecision) and device.type != "cuda":
        return Precision(torch.float32, scaled=False, device=device)
    if isinstance(asked, Float16) or (isinstance(asked, AutoPrecision) and not _has_bf16()):
        return Precision(torch.float16, scaled=True, device=device)
    return Precision(torch.bfloat16, scaled=False, device=device)


def _has_bf16() -> bool:
    """In hardware: emulated, it is slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def describe_precision(asked: Asked, used: Precision) -> str:
    """``float32 (fp16 on GPUs)``: what is used, and what was asked where that is something else."""
    name = str(used.compute).removeprefix("torch.")
    if isinstance(asked, AutoPrecision):
        return f"{name} (chosen for this device)"
    wanted = {"bf16": "bfloat16", "fp16": "float16"}.get(asked.kind, asked.kind)
    return name if wanted == name else f"{name} ({asked.kind} on GPUs)"


def describe_device(device: torch.device) -> str:
    """``cpu, 2 threads`` or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type}{threads}"
