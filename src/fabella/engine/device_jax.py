"""Which devices and which precision JAX trains with, chosen in one place and said in words."""

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

from fabella.config.training import DDP, FSDP, AutoPrecision, Float16, Float32
from fabella.config.training import PrecisionConfig as Asked
from fabella.errors import ConfigError

Device = Any
"""A ``jax.Device``; JAX gives its checker no type of that name."""

DEVICES: ContextVar[int] = ContextVar("devices", default=1)
"""How many devices a training takes that begins within; set by launch_jax.py, from the command line's --devices."""
KINDS = {"cuda": "gpu", "rocm": "gpu"}
"""What users call a device → what JAX calls its platform."""
AXIS = "data"


def pick_devices(name: str, count: int = 1) -> list[Device]:
    """``auto``: what JAX takes by itself, the fastest there is. Raises ConfigError for what is not there."""
    kind, _, number = name.partition(":")
    found = _devices("" if kind == "auto" else KINDS.get(kind, kind))
    if not found:
        raise ConfigError(f"Device '{name}' is not there.", hint=f"Choose from: {', '.join(_names())}.")
    if number:
        if not number.isdecimal() or int(number) >= len(found):
            raise ConfigError(
                f"Device '{name}' is not there.", hint=f"Choose from: {kind}:0 to {kind}:{len(found) - 1}."
            )
        return [found[int(number)]]
    if count > len(found):
        raise ConfigError(
            f"{count} devices are more than the {len(found)} of this machine.", hint="Use --devices auto."
        )
    return found[:count]


def _devices(platform: str) -> list[Device]:
    """Of this process: those of the others are not its to compute with alone."""
    try:
        return jax.local_devices(backend=platform or None)
    except RuntimeError:  # JAX's word for a platform that it does not know, or that is not here
        return []


def devices_of_all(name: str) -> list[Device]:
    """Every device of that kind of all processes of this training, the same for each of them."""
    return jax.devices(pick_devices(name)[0].platform)


def _names() -> list[str]:
    ours = {platform: name for name, platform in KINDS.items() if platform != "gpu"} | {"gpu": "cuda"}
    fastest = jax.default_backend()
    return list(dict.fromkeys(["auto", ours.get(fastest, fastest), "cpu"]))


def describe_devices(devices: Sequence[Device]) -> str:
    """``cpu``, or the accelerator's name; with their number where there are several."""
    kind = devices[0].device_kind
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


@dataclass(frozen=True, slots=True)
class Precision:
    """``compute`` is the type of matrix products; weights and moments are always float32."""

    compute: Any
    scaled: bool
    """Whether the loss is scaled, so that small fp16 gradients do not vanish."""


def resolve_precision(asked: Asked, device: Device) -> Precision:
    """The precision used on ``device``: what was asked on an accelerator, float32 on a CPU; auto is bf16 elsewhere."""
    if device.platform == "cpu" or isinstance(asked, Float32):
        return Precision(jnp.float32, scaled=False)
    if isinstance(asked, Float16) or (isinstance(asked, AutoPrecision) and not _has_bf16(device)):
        return Precision(jnp.float16, scaled=True)
    return Precision(jnp.bfloat16, scaled=False)


def _has_bf16(device: Device) -> bool:
    """In hardware: TPUs, and NVIDIA GPUs from compute capability 8.0 on."""
    return float(getattr(device, "compute_capability", "8.0")) >= 8.0


def describe_precision(asked: Asked, used: Precision) -> str:
    """``float32 (fp16 on GPUs)``: what is used, and what was asked where that is something else."""
    name = jnp.dtype(used.compute).name
    if isinstance(asked, AutoPrecision):
        return f"{name} (chosen for this device)"
    wanted = {"bf16": "bfloat16", "fp16": "float16"}.get(asked.kind, asked.kind)
    return name if wanted == name else f"{name} ({asked.kind} on GPUs)"


@dataclass(frozen=True)
class Sharding:
    """How arrays lie on the devices: rows of a batch spread over all; weights on each, or in shards."""

    mesh: Mesh
    sharded: bool

    @classmethod
    def over(cls, devices: Sequence[Device], parallel: DDP | FSDP) -> "Sharding":
        """One layout for ``devices``, of this and any other process."""
        return cls(Mesh(np.array(devices), (AXIS,)), isinstance(parallel, FSDP) and len(devices) > 1)

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def local(self) -> bool:
        """Whether all devices are this process's own."""
        return not self.mesh.is_multi_process

    @property
    def words(self) -> str:
        """For the manifest; empty for one device."""
        processes = len({device.process_index for device in self.mesh.devices.flat})
        many = f", {processes} processes" if processes > 1 else ""
        return "" if self.size == 1 else f"{'fsdp' if self.sharded else 'ddp'}, {self.size} devices{many}"

    def spec(self, shape: tuple[int, ...]) -> NamedSharding:
        """For a weight, its gradient or its moments: whole on every device, or cut along the first axis that allows."""
        axes = [axis for axis, length in enumerate(shape) if self.sharded and length % self.size == 0]
        spec = [AXIS if axes and axis == axes[0] else None for axis in range(len(shape))]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def rows(self, axis: int) -> NamedSharding:
        """For arrays whose ``axis`` counts windows."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def put(self, array: NDArray[Any], sharding: NamedSharding) -> Array:
        """``array`` on the devices; of other processes' devices, each process puts it on its own."""
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def place(self, arrays: Mapping[str, Any]) -> dict[str, Array]:
        """Weights or moments, copied onto the devices: whoever gave them may change his own."""
        return {name: self.put(np.array(array, np.float32), self.spec(array.shape)) for name, array in arrays.items()}

    def gather(self, array: Array) -> NDArray[np.float32]:
        """All of an array in this machine's memory, not a view of what the next step overwrites.

        Where other processes hold parts of it, each of them must ask for it.
        """
        if not array.is_fully_addressable and not array.is_fully_replicated:
            array = _everywhere(NamedSharding(self.mesh, PartitionSpec()))(array)
        return np.array(array)


@cache
def _everywhere(sharding: NamedSharding) -> Callable[[Array], Array]:
    def same(array: Array) -> Array:
        return array

    return jax.jit(same, out_shardings=sharding)
