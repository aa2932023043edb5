"""Tests that memory does not grow over many steps with frequent logging, validation, checkpoints and samples.

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
from fabella.report.plots import plot_loss
from fabella.training.callbacks.plots import RedrawLossPlot
from fabella.training.loop import Progress
from fabella.training.run import start_run
from tests.training import tiny

MAX_GROWTH_BYTES = 1_000_000
"""Bytes per thousand steps that the fault matrix allows. A metrics row takes about 400 bytes: to keep each one would
use half of this limit, and to keep a batch or a tensor of each step would exceed it many times."""
LEAK_BYTES = 4_000
"""Bytes per step that the test must detect."""
EVERY_STEPS, WARM_UP_STEPS = 100, 500

FREQUENT_CALLBACKS = [
    "training.log_every_steps=1", "training.gradient_accumulation=[[0, 1]]", "training.micro_batch_size=1",
    "validation.every_steps=100",
    "validation.num_sequences=1", "checkpoint.every_steps=100", "samples.every_steps=100", "samples.max_tokens=2",
    "data.source.stories=24",
    "tracking.tensorboard=true", "tracking.histogram_every_steps=50",
]  # fmt: skip


class MemoryCallback:
    """A callback that records the memory of the process every hundred steps, without the free part of the heap."""

    def __init__(self, leak: int) -> None:
        self.steps, self.bytes = list[int](), list[int]()
        self.leak, self._leaked = leak, list[bytes]()
        libc = ctypes.util.find_library("c")
        self._trim = getattr(ctypes.CDLL(libc), "malloc_trim", lambda pad: 0) if libc else lambda pad: 0

    def __call__(self, progress: Progress, result: Any) -> None:
        if self.leak:
            self._leaked.append(bytes(range(256)) * (self.leak // 256))
        if progress.step >= WARM_UP_STEPS and progress.step % EVERY_STEPS == 0:
            self.measure(progress.step)

    def measure(self, step: int) -> None:
        """Record the memory of the process at ``step``, without the free part of the heap."""
        gc.collect()
        self._trim(0)
        self.steps.append(step)
        self.bytes.append(psutil.Process().memory_info().rss)

    def per_thousand_steps(self) -> float:
        """Return the slope of a linear fit through all measurements, in bytes per thousand steps."""
        return float(np.polyfit(self.steps, self.bytes, 1)[0]) * 1000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    pytest.importorskip("tensorboard")
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plot while training: how many fall due depends on the speed of the machine. They have their own test."""
    monkeypatch.setattr(RedrawLossPlot, "__call__", lambda *_: None)


def memory_growth(data: TokenizedDataset, out: Path, steps: int, leak: int = 0) -> float:
    memory = MemoryCallback(leak)
    start_run(tiny.run(*FREQUENT_CALLBACKS, steps=steps), out, data, callbacks=[memory])
    return memory.per_thousand_steps()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_plots")
@pytest.mark.fault("B11", cases=1)
def test_memory_does_not_grow(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 1500) <= MAX_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.usefixtures("_no_plots")
def test_a_leak_of_a_few_kilobytes_a_step_is_noticed(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 1000, LEAK_BYTES) > MAX_GROWTH_BYTES


@pytest.mark.faults
@pytest.mark.usefixtures("_no_plots")
@pytest.mark.fault("B11", cases=1)
def test_memory_does_not_grow_over_twenty_thousand_steps(data: TokenizedDataset, quick_path: Path) -> None:
    assert memory_growth(data, quick_path / "run", 20_000) <= MAX_GROWTH_BYTES


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_plots(data: TokenizedDataset, quick_path: Path) -> None:
    """The first plots fill the caches of matplotlib. Then a hundred plots may take as much as a thousand steps."""
    run = start_run(tiny.run("training.log_every_steps=1", steps=60), quick_path / "run", data).path
    memory = MemoryCallback(leak=0)
    for number in range(40):
        plot_loss(run)
        if number >= 20:
            memory.measure(10 * number)
    assert memory.per_thousand_steps() <= MAX_GROWTH_BYTES
