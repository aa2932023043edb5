"""Measurements of a training with PyTorch that do not affect it: step time, memory, histograms."""

import time
from collections import deque
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fabella.engine.engine import Histogram
from fabella.engine.measure.peak_flops_torch import measure_peak_flops
from fabella.engine.measure.process_memory import peak_process_memory

MAX_STEPS = 1000
"""Most recent steps whose times are stored until they are read: enough for percentiles."""
BINS = 64


class StepTimer:
    """Time of each step from ``start`` to ``stop``; on a GPU by CUDA events, so that no step waits."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._times: deque[tuple[Any, Any]] = deque(maxlen=MAX_STEPS)
        self._started: Any = None

    def start(self) -> None:
        """Mark the start of a step."""
        self._started = self._now()

    def stop(self) -> None:
        """Mark the end of a step; without a preceding ``start`` nothing is recorded."""
        if self._started is not None:
            self._times.append((self._started, self._now()))
        self._started = None

    def read(self) -> list[float]:
        """Return the seconds of each step since the last call, at most MAX_STEPS of them. Waits for the device."""
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
    """Return the peak FLOP/s of this machine, measured once per process."""
    return measure_peak_flops(device, dtype)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes so far: of the GPU, or of this process on any other device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_process_memory()


@torch.no_grad()
def histograms(model: nn.Module) -> dict[str, Histogram]:
    """Return ``weights/NAME`` of every parameter, and ``gradients/NAME`` of those with a gradient."""
    histograms_by_name: dict[str, Histogram] = {}
    for name, parameter in model.named_parameters():
        histograms_by_name[f"weights/{name}"] = histogram(parameter)
        if parameter.grad is not None:
            histograms_by_name[f"gradients/{name}"] = histogram(parameter.grad)
    return histograms_by_name


def histogram(values: Tensor) -> Histogram:
    """Count values in 64 bins of equal width from the smallest to the largest; non-finite values are ignored.

    A distributed tensor is counted by its local values only.
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
