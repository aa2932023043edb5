"""The native decoder: decode.cpp, compiled on the user's machine once (``fabella.native``).

A generation that has begun never switches to the library: the same seed must give the same text at any time.
"""

from functools import cache
from pathlib import Path

from fabella.native.build import NativeCode, NativeLibrary
from fabella.native.build import build_library as build_native_library
from fabella.tracking.console import print_status

SOURCE = Path(__file__).with_name("decode.cpp")
SOURCES = (SOURCE, *map(SOURCE.with_name, ("sample.h", "panels.h", "matmul.h")))
# Without contraction a sum has the same bits in every loop; matmul.h fuses explicitly where it pays.
CODE = NativeCode("the native decoder", SOURCES, "Generation is slower", ("-ffp-contract=off",))


@cache
def library() -> NativeLibrary:
    """Return the library of this process, built at the first call."""
    return build_library()


def build_library() -> NativeLibrary:
    """Load the library from the cache, or compile it first, which takes a few seconds once per machine."""
    return build_native_library(CODE, print_status)
