"""Tests that freed memory is kept between training steps, and that a user's own setting stays."""

import json
import os
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


RETURNED = """
import ctypes, json
from fabella.engine.cpu import allocator
kept = allocator.keep_freed_memory()
memory = allocator.KeptMemory() if kept else None
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def use(size):
    blocks = [libc.malloc(2**20) for _ in range(size)]
    for block in blocks:
        ctypes.memset(block, 1, 2**20)
    for block in blocks:
        libc.free(block)

sizes = []
for megabytes in (100, 100, 110, 1000, 100, 100, 1000):
    use(megabytes)
    before = allocator.resident_bytes()
    if kept:
        memory.after_pass()
    sizes.append((before >> 20, allocator.resident_bytes() >> 20))
print(json.dumps([kept, sizes]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_returned_when_a_process_has_grown_far_above_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*allocator.ENVIRONMENT, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    output = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True).stdout
    kept, sizes = json.loads(output)
    if not kept:
        pytest.skip("malloc is not glibc's")
    returned = [before - after for before, after in sizes]
    assert max(returned[:3]) < 10  # as much as a pass needs stays
    assert returned[3] > 900
    assert max(returned[4:6]) < 10  # the passes that measure what is needed now
    assert returned[6] > 900


MANY_LENGTHS = """
import json
import os
import numpy as np
from fabella.data.batches import Batch
from fabella.engine.cpu import allocator
from fabella.engine.engine_torch import create_engine
from fabella.run_config.files import load_config

MODEL = "{family: gpt2, vocab_size: 8192, context_length: 256, dim: 64, layers: 4, heads: 2, ffn_dim: 256}"
run = load_config("tinystories-1m", [f"model={MODEL}", "tokenizer={kind: bytes}", "training.micro_batch_size=4"])
engine, random, sizes = create_engine(run, "cpu"), np.random.default_rng(0), []
for _ in range(70):
    ids = random.integers(0, 8192, (4, int(random.integers(60, 257)) + 1)).astype(np.int32)
    engine.step(Batch(ids[:, :-1], ids[:, 1:]), 1e-3)
    sizes.append(allocator.resident_bytes() >> 20)
print(json.dumps(sizes))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_sequences_of_many_lengths_do_not_make_the_process_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN compiles each product for each length: 4 MB a step here, which it kept for a thousand products."""
    monkeypatch.delenv("FABELLA_MATMUL", raising=False)  # bf16 where the CPU has it
    for name in allocator.PRIMITIVE_CACHES:
        monkeypatch.delenv(name, raising=False)
    output = subprocess.run([sys.executable, "-c", MANY_LENGTHS], capture_output=True, text=True, check=True).stdout
    sizes = json.loads(output.splitlines()[-1])
    assert max(sizes) - sizes[20] < 100, sizes


def test_a_user_may_set_the_primitives_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = allocator.PRIMITIVE_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.delenv(second, raising=False)
    allocator.limit_primitive_caches()
    assert (os.environ[first], os.environ[second]) == ("7", str(allocator.PRIMITIVES))
