"""The sections of the check, and the form of what they find. No engine is imported before a section runs."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = "benchmarks.gpu_check"

Values = dict[str, Any]
"""What a case found, for the JSON file; ``passed`` says whether it is as it must be."""
Case = tuple[str, Callable[[], Values]]
"""A name, and the function that examines the case."""


class SkipCaseError(Exception):
    """The case, or the section, cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every section is given."""

    device: str
    """``cpu``, ``cuda`` or ``cuda:N``."""
    tiny: bool
    """Whether models and batches are small, to check the check itself."""
    directory: str
    """Existing directory for the section's runs and logs."""
    limit_seconds: float
    """Time after which the section is killed."""

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True, slots=True)
class Section:
    """Cases that run in one process of their own, by a function ``NAME(settings)`` in ``module``."""

    name: str
    module: str
    question: str
    limit_seconds: float
    """Limit on a GPU; a tiny check on a CPU may take TINY_SECONDS."""

    def cases(self, settings: Settings) -> Iterator[Case]:
        """Import the module and yield its cases. Raises SkipCaseError if the section cannot run here."""
        yield from getattr(importlib.import_module(f"{PACKAGE}.{self.module}"), self.name)(settings)


TINY_SECONDS = 600.0

SECTIONS = (
    Section("environment", "environment_torch", "versions, speed of products and memory, attention kernels", 90),
    Section("defaults", "steps_torch", "the precision that each preset gets", 60),
    Section("syncs", "steps_torch", "does a step ever wait for the device?", 90),
    Section("parity", "parity_torch", "are loss and gradients those of a CPU?", 120),
    Section("determinism", "steps_torch", "do the same steps give the same bits, and at what cost?", 240),
    Section("kill", "kill", "is a killed and resumed run the uninterrupted one, bit for bit?", 300),
    Section("commands", "commands", "do the commands that use the device work?", 240),
    Section("tests", "commands", "do the tests marked gpu pass?", 240),
    Section("throughput", "throughput_torch", "tokens per second, MFU and memory, and those of a plain step", 420),
    Section("loss", "kernels_torch", "the loss in chunks, compared with all logits at once", 90),
    Section("scan", "kernels_torch", "MinGRU's recurrence, and the limit that memory sets", 60),
    Section("decode", "decoding_torch", "tokens per second of generation, and those of a plain loop", 120),
    Section("jax", "steps_jax", "speed and repeatability of the JAX engine", 120),
    Section("ranks", "commands", "do two processes train what one trains, with DDP and FSDP?", 120),
)
NAMES = tuple(section.name for section in SECTIONS)
