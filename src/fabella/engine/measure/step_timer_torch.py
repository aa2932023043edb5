"""What is measured of a PyTorch training without disturbing it: the time of steps, memory, how values are spread."""

import time
from collections import deque
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fabella.engine.engine import Histogram
from fabella.engine.measure.peak_flops_torch import measure_peak_flops
from fabella.engine.measure.process_memory import peak_process_memory

LATEST = 1000
"""Steps whose times are kept until they are read: enough for percentiles, however seldom a run logs."""
BINS = 64


class StepTimer:
    """The time of each step, from ``start`` to ``stop``. On a GPU its own clock runs, and no step waits to be timed."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._times: deque[tuple[Any, Any]] = deque(maxlen=LATEST)
        self._started: Any = None

    def start(self) -> None:
        """A step begins."""
        self._started = self._now()

    def stop(self) -> None:
        """It ends; without ``start`` before it nothing is measured."""
        if self._started is not None:
            self._times.append((self._started, self._now()))
        self._started = None

    def read(self) -> list[float]:
        """Seconds of each step since the last reading (the latest thousand); waits for the device."""
        times = list(self._times)
        self._times.clear()
        if not self._on_gpu:
            return [end - start for start, end in times]
        if times:
            times[-1][1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in times]

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@cache
def peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Operations a second of this machine's fastest matrix products, measured once a process; see peak_torch.py."""
    return measure_peak_flops(device, dtype)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use at once so far: of the GPU's memory, or of this process's on any other device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_process_memory()


@torch.no_grad()
def histograms(model: nn.Module) -> dict[str, Histogram]:
    """``weights/NAME`` for every weight, and ``gradients/NAME`` for those that have one."""
    found: dict[str, Histogram] = {}
    for name, parameter in model.named_parameters():
        found[f"weights/{name}"] = histogram(parameter)
        if parameter.grad is not None:
            found[f"gradients/{name}"] = histogram(parameter.grad)
    return found


def histogram(values: Tensor) -> Histogram:
    """Counts in 64 equal bins from the smallest to the largest value; what is not finite is left out.

    Of a tensor in shards these are the values of this process's own.
    """
    local: Tensor = getattr(values, "to_local", lambda: values)().detach().float()
    local = local[local.isfinite()]
    if local.numel() == 0:
        return Histogram(0.0, 1.0, (0,) * BINS)
    low, high = (float(bound) for bound in local.aminmax())
    if low == high:
        low, high = low - 1.0, high + 1.0
    counts = torch.histc(local, bins=BINS, min=low, max=high)
    return Histogram(low, high, tuple(int(number) for number in counts.tolist()))
