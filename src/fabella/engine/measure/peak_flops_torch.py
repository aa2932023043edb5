"""Peak FLOP/s of this machine's matrix products, the reference of model FLOPs utilization (MFU)."""

import time

import torch

SIZE_ON_CPU, SIZE_ON_GPU = 1024, 8192
"""Rows of the square matrices: large enough for full speed, small enough for any memory (12 MB, 400 MB)."""
MIN_TRIALS = 3


def measure_peak_flops(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.15) -> float:
    """Return the FLOP/s of the fastest matrix product among those of about ``seconds`` of measurement.

    Uses PyTorch's current threads and TF32 setting, those of the training that it is compared with.
    """
    device = torch.device(device)
    size = SIZE_ON_CPU if device.type == "cpu" else SIZE_ON_GPU
    a = torch.ones(size, size, device=device, dtype=dtype)
    b, product = torch.ones_like(a), torch.empty_like(a)
    torch.mm(a, b, out=product)  # warm-up: memory pages, kernels, threads
    _wait(device)
    end, best, trials = time.perf_counter() + seconds, float("inf"), 0
    while trials < MIN_TRIALS or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        _wait(device)
        best = min(best, time.perf_counter() - start)
        trials += 1
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    """Wait for all queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
