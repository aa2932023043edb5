"""The library of the training kernels, and the context in which the layers of a model use it.

Kernels are used within ``use_kernels``, which the training step of an engine enters on a CPU. Elsewhere (generation,
evaluation, export, torch.compile) the layers compute with PyTorch's operations, as they do without a compiler.
"""

import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from fabella.errors import ConfigError
from fabella.native.build import NativeCode, NativeLibrary, build_library

SWITCH = "FABELLA_KERNELS"
"""Environment variable: ``off`` trains with PyTorch's operations; ``auto`` or nothing uses the kernels."""
SOURCE = Path(__file__).with_name("training.cpp")
HEADERS = (
    "vectors.h",
    "scratch.h",
    "products.h",
    "attention.h",
    "heads.h",
    "layers.h",
    "loss.h",
    "recurrence.h",
    "residual.h",
)
CODE = NativeCode(
    "the training kernels",
    (SOURCE, *(SOURCE.with_name(name) for name in HEADERS)),
    "Training is slower",
    ("-ffp-contract=fast", "-Wno-psabi"),
)
INSTRUCTIONS = ("vectors", "avx512", "avx512_bf16", "amx")
"""What the library may be compiled for, by the number that it returns."""

_active: ContextVar[ctypes.CDLL | None] = ContextVar("training kernels", default=None)


def kernel_library() -> NativeLibrary:
    """Return the library of this process, built at the first call; without one if the user switched it off.

    Raises ConfigError for an unknown value of FABELLA_KERNELS.
    """
    setting = os.environ.get(SWITCH) or "auto"
    if setting not in ("auto", "off"):
        raise ConfigError(f"Unknown {SWITCH} = {setting!r}.", hint=f"Set {SWITCH}=off, or unset it.")
    return NativeLibrary(None) if setting == "off" else _library()


@cache
def _library() -> NativeLibrary:
    built = build_library(CODE, _report)
    if built.library is not None:
        for name in ("fabella_rms_norm_parts", "fabella_sum_parts"):
            getattr(built.library, name).restype = ctypes.c_int64
    return built


def _report(text: str) -> None:
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - None if it was closed
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def instructions(library: ctypes.CDLL) -> str:
    """Return what the library was compiled for, one of INSTRUCTIONS."""
    return INSTRUCTIONS[library.fabella_instructions()]


@contextmanager
def use_kernels(library: ctypes.CDLL | None) -> Generator[None]:
    """Let the layers of a model use the library for the duration of the block; None: PyTorch's operations."""
    token = _active.set(library)
    try:
        yield
    finally:
        _active.reset(token)


def active_library() -> ctypes.CDLL | None:
    """Return the library of the innermost ``use_kernels``; None outside."""
    return _active.get()
