"""Tests that freed memory is kept between training steps, and that a user's own setting stays."""

import json
import subprocess
import sys

import pytest

from fabella.engine.cpu import allocator

PAGE_FAULTS = """
import ctypes, json, resource
from fabella.engine.cpu.allocator import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 48 * 2**20  # above the largest threshold below which glibc keeps a block
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, faults]))
"""


def page_faults(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[bool, list[int]]:
    """Return whether memory is kept, and the page faults of writing the same large block three times."""
    for name in (*allocator.ENVIRONMENT, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    output = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True).stdout
    kept, faults = json.loads(output)
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_pages_of_a_freed_block_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, (first, second, third) = page_faults(monkeypatch)
    if not kept:
        pytest.skip("malloc is not glibc's")
    assert first > 0
    assert second == third == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, faults = page_faults(monkeypatch, MALLOC_TOP_PAD_="1048576")
    assert not kept
    assert min(faults) > 0


def test_without_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise OSError(name)

    for name in allocator.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", no_library)
    assert allocator.keep_freed_memory.__wrapped__() is False
