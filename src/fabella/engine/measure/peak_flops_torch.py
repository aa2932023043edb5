"""Peak FLOP/s of this machine's matrix products with PyTorch."""

from collections.abc import Callable

import torch

from fabella.engine.measure import peak_flops


def measure_peak_flops(device: torch.device | str, dtype: torch.dtype, *, seconds: float = peak_flops.SECONDS) -> float:
    """Return the FLOP/s of the fastest matrix product among those of about ``seconds`` of measurement.

    Uses PyTorch's current threads and TF32 setting, those of the training that it is compared with.
    """
    device = torch.device(device)

    def product_of(size: int) -> Callable[[], None]:
        a = torch.ones(size, size, device=device, dtype=dtype)
        b, product = torch.ones_like(a), torch.empty_like(a)

        def multiply() -> None:
            torch.mm(a, b, out=product)
            _wait(device)

        return multiply

    return peak_flops.measure_peak_flops(product_of, on_cpu=device.type == "cpu", seconds=seconds)


def _wait(device: torch.device) -> None:
    """Wait for all queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
