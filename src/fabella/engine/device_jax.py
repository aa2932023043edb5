"""Choose and describe devices, precision and sharding of a training with JAX."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from fabella.config.training import DDP, FSDP, AutoPrecision, Float16, Float32, PrecisionConfig
from fabella.errors import ConfigError

Device = Any
"""A ``jax.Device``; JAX gives its checker no type of that name."""

DEVICES: ContextVar[int] = ContextVar("devices", default=1)
"""Number of devices of a training that starts in this context; launcher_jax.py sets it from ``--devices``."""
KINDS = {"cuda": "gpu", "rocm": "gpu"}
"""Name of a device on the command line → name of its platform in JAX."""
AXIS = "data"


def pick_devices(name: str, count: int = 1) -> list[Device]:
    """Return ``count`` devices; ``auto`` picks JAX's default platform. Raises ConfigError if they do not exist."""
    kind, _, number = name.partition(":")
    devices = _devices("" if kind == "auto" else KINDS.get(kind, kind))
    if not devices:
        raise ConfigError(f"Unknown device {name!r}.", hint=f"Choose from: {', '.join(_names())}.")
    if number:
        if not number.isdecimal() or int(number) >= len(devices):
            raise ConfigError(f"Unknown device {name!r}.", hint=f"Choose from: {kind}:0 to {kind}:{len(devices) - 1}.")
        return [devices[int(number)]]
    if count > len(devices):
        raise ConfigError(f"Cannot use {count} devices: this machine has {len(devices)}.", hint="Use --devices auto.")
    return devices[:count]


def _devices(platform: str) -> list[Device]:
    """Return the devices of this process; an empty list for an unknown platform."""
    try:
        return jax.local_devices(backend=platform or None)
    except RuntimeError:  # raised for an unknown platform, and for one without devices
        return []


def devices_of_all(name: str) -> list[Device]:
    """Return every device of this kind of all processes, in the same order on each of them."""
    return jax.devices(pick_devices(name)[0].platform)


def _names() -> list[str]:
    names = {platform: name for name, platform in KINDS.items() if platform != "gpu"} | {"gpu": "cuda"}
    default = jax.default_backend()
    return list(dict.fromkeys(["auto", names.get(default, default), "cpu"]))


def describe_devices(devices: Sequence[Device]) -> str:
    """Return the name of the devices' kind, with their number if there are several."""
    kind = devices[0].device_kind
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


@dataclass(frozen=True, slots=True)
class Precision:
    """Data type of matrix products; weights and optimizer state are always float32."""

    compute: Any
    scaled: bool
    """Whether the loss is scaled, so that small fp16 gradients do not underflow."""


def resolve_precision(requested: PrecisionConfig, device: Device) -> Precision:
    """Return the precision to use: float32 on a CPU, as requested elsewhere; auto prefers bf16 to fp16."""
    if device.platform == "cpu" or isinstance(requested, Float32):
        return Precision(jnp.float32, scaled=False)
    if isinstance(requested, Float16) or (isinstance(requested, AutoPrecision) and not _has_bf16(device)):
        return Precision(jnp.float16, scaled=True)
    return Precision(jnp.bfloat16, scaled=False)


def _has_bf16(device: Device) -> bool:
    """Return whether the hardware multiplies bf16: TPUs, and NVIDIA GPUs of compute capability 8.0 or higher."""
    return float(getattr(device, "compute_capability", "8.0")) >= 8.0


def describe_precision(requested: PrecisionConfig, used: Precision) -> str:
    """Return the precision in use, and the requested one if it differs: ``float32 (fp16 on GPUs)``."""
    name = jnp.dtype(used.compute).name
    if isinstance(requested, AutoPrecision):
        return f"{name} (chosen for this device)"
    requested_name = {"bf16": "bfloat16", "fp16": "float16"}.get(requested.kind, requested.kind)
    return name if requested_name == name else f"{name} ({requested.kind} on GPUs)"


@dataclass(frozen=True)
class Sharding:
    """Distribution of arrays over the devices: batches by rows; weights replicated (DDP) or sharded (FSDP)."""

    mesh: Mesh
    sharded: bool

    @classmethod
    def over(cls, devices: Sequence[Device], parallel: DDP | FSDP) -> "Sharding":
        """Return the sharding over ``devices`` of this and other processes."""
        return cls(Mesh(np.array(devices), (AXIS,)), isinstance(parallel, FSDP) and len(devices) > 1)

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def local(self) -> bool:
        """Whether all devices belong to this process."""
        return not self.mesh.is_multi_process

    @property
    def description(self) -> str:
        """For the manifest: strategy, devices and processes; empty for one device."""
        processes = len({device.process_index for device in self.mesh.devices.flat})
        suffix = f", {processes} processes" if processes > 1 else ""
        return "" if self.size == 1 else f"{'fsdp' if self.sharded else 'ddp'}, {self.size} devices{suffix}"

    def spec(self, shape: tuple[int, ...]) -> NamedSharding:
        """Return the sharding of a weight or moment: replicated, or split along the first axis that divides evenly."""
        axes = [axis for axis, length in enumerate(shape) if self.sharded and length % self.size == 0]
        spec = [AXIS if axes and axis == axes[0] else None for axis in range(len(shape))]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def rows(self, axis: int) -> NamedSharding:
        """Return the sharding of arrays whose ``axis`` counts the rows of a batch."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def put(self, array: NDArray[Any], sharding: NamedSharding) -> Array:
        """Copy ``array`` to the devices; each process fills its own ones."""
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def place(self, arrays: Mapping[str, Any]) -> dict[str, Array]:
        """Copy weights or moments to the devices; the caller may change the given arrays afterwards."""
        return {name: self.put(np.array(array, np.float32), self.spec(array.shape)) for name, array in arrays.items()}

    def gather(self, array: Array) -> NDArray[np.float32]:
        """Return a full copy of an array in host memory.

        A collective if other processes have parts of the array: all of them must call it.
        """
        if not array.is_fully_addressable and not array.is_fully_replicated:
            array = _replicate(NamedSharding(self.mesh, PartitionSpec()))(array)
        return np.array(array)


@cache
def _replicate(sharding: NamedSharding) -> Callable[[Array], Array]:
    def identity(array: Array) -> Array:
        return array

    return jax.jit(identity, out_shardings=sharding)
