"""Train on several devices of this machine: with JAX, one process uses all of them."""

from collections.abc import Callable
from typing import Any

import jax

from fabella.engine.device_jax import DEVICES
from fabella.errors import ConfigError


def parse_devices(devices: str) -> int:
    """Return the number of devices in ``--devices``: a number, or ``auto`` for all of them. Raises ConfigError."""
    if devices == "auto":
        return len(jax.local_devices())
    if not devices.isdecimal() or int(devices) < 1:
        raise ConfigError(
            f"Cannot parse --devices {devices}: it must be a number from 1, or auto.", hint="Use --devices auto."
        )
    return int(devices)


def launch(count: int, work: Callable[..., int], *arguments: Any) -> int:
    """Call ``work(*arguments)`` in this process; trainings that it starts use ``count`` devices."""
    before = DEVICES.set(count)
    try:
        return work(*arguments)
    finally:
        DEVICES.reset(before)
