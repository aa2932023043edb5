"""Several devices of this machine for one training: with JAX one process drives them all."""

from collections.abc import Callable
from typing import Any

import jax

from fabella.engine.device_jax import DEVICES
from fabella.errors import ConfigError


def devices_here(asked: str) -> int:
    """Devices that ``--devices`` asks for: a number, or all that JAX finds (``auto``).

    Raises ConfigError for anything else.
    """
    if asked == "auto":
        return len(jax.local_devices())
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"--devices {asked} is neither a number of devices nor auto.", hint="Use --devices auto.")
    return int(asked)


def launch(count: int, work: Callable[..., int], *arguments: Any) -> int:
    """Do ``work(*arguments)`` here; a training that begins within takes ``count`` devices."""
    before = DEVICES.set(count)
    try:
        return work(*arguments)
    finally:
        DEVICES.reset(before)
