"""How fast this machine multiplies matrices at its best: what model FLOPs utilisation is a share of."""

import time

import torch

SIZE_ON_CPU, SIZE_ON_GPU = 1024, 8192
"""Side of the square matrices: large enough for full speed, small enough for any machine's memory (12 MB, 400 MB)."""
FEWEST_TRIALS = 3


def measure_peak_flops(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.15) -> float:
    """Floating-point operations a second of the fastest of some matrix products, measured for about ``seconds``.

    It uses as many threads, and TF32 or not, as the training that it is compared with: the settings of PyTorch now.
    """
    device = torch.device(device)
    size = SIZE_ON_CPU if device.type == "cpu" else SIZE_ON_GPU
    a = torch.ones(size, size, device=device, dtype=dtype)
    b, product = torch.ones_like(a), torch.empty_like(a)
    torch.mm(a, b, out=product)  # the first one waits for pages of memory, kernels, threads
    _wait(device)
    end, best, trials = time.perf_counter() + seconds, float("inf"), 0
    while trials < FEWEST_TRIALS or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        _wait(device)
        best = min(best, time.perf_counter() - start)
        trials += 1
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
