"""Memory over many steps: everything that a run does beside its steps, done often, and no more memory than before.

Row B11 of the fault matrix.
"""

import ctypes
import ctypes.util
import gc
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.training.loop import Progress
from fabella.training.run import start_run
from tests.training import tiny

MOST = 1_000_000
"""Bytes in a thousand steps: what the fault matrix allows. A row of metrics takes about 400 bytes; were each kept,
a thousand would be seen as half of this, and a batch or a tensor kept at each step many times over."""
LEAK = 4_000
"""Bytes a step that the test must notice."""
EVERY, WARM_UP = 100, 500

OFTEN = [
    "training.log_every_steps=1", "training.gradient_accumulation=[[0, 1]]", "training.micro_batch_size=1",
    "validation.every_steps=100",
    "validation.num_sequences=1", "checkpoint.every_steps=100", "samples.every_steps=100", "samples.max_tokens=2",
    "data.source.stories=24",
    "tracking.tensorboard=true", "tracking.histogram_every_steps=50",
]  # fmt: skip


class Memory:
    """An observer: the process's memory every hundred steps, what could be given back not counted."""

    def __init__(self, leak: int) -> None:
        self.steps, self.bytes = list[int](), list[int]()
        self.leak, self._leaked = leak, list[bytes]()
        libc = ctypes.util.find_library("c")
        self._trim = getattr(ctypes.CDLL(libc), "malloc_trim", lambda pad: 0) if libc else lambda pad: 0

    def __call__(self, progress: Progress, result: Any) -> None:
        if self.leak:
            self._leaked.append(bytes(range(256)) * (self.leak // 256))
        if progress.step >= WARM_UP and progress.step % EVERY == 0:
            gc.collect()
            self._trim(0)
            self.steps.append(progress.step)
            self.bytes.append(psutil.Process().memory_info().rss)

    def per_thousand_steps(self) -> float:
        """By the line that fits all measurements best."""
        return float(np.polyfit(self.steps, self.bytes, 1)[0]) * 1000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    pytest.importorskip("tensorboard")
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def memory_growth(data: TokenizedDataset, out: Path, steps: int, leak: int = 0) -> float:
    memory = Memory(leak)
    start_run(tiny.run(*OFTEN, steps=steps), out, data, callbacks=[memory])
    return memory.per_thousand_steps()


@pytest.mark.slow
@pytest.mark.fault("B11", cases=1)
def test_memory_does_not_grow(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 1500) <= MOST


@pytest.mark.slow
def test_a_leak_of_a_few_kilobytes_a_step_is_noticed(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 1000, LEAK) > MOST


@pytest.mark.faults
@pytest.mark.fault("B11", cases=1)
def test_memory_does_not_grow_over_twenty_thousand_steps(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 20_000) <= MOST
