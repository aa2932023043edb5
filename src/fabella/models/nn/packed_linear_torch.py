"""Matrix products for the few rows that decoding has, with weights that stay: laid out once, read at memory's speed.

One token reads every weight once, so that the time is that of moving the weights from memory. PyTorch's ``linear``
is made for many rows: on a CPU it reaches half of that with one row and a quarter with sixteen (docs/benchmarks.md).
"""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fabella.errors import ConfigError

Product = Callable[[Float[Tensor, "N I"]], Float[Tensor, "N O"]]
"""x @ weight.T + bias, for the weight that it was made of."""
LinearFactory = Callable[[Float[Tensor, "O I"], Tensor | None], Product]
"""Makes a product of a weight and perhaps a bias; what they hold later is not seen."""

ROWS = 16
"""Rows that a packed weight is laid out for; it serves one row as well as any other layout does."""
WORTH_PACKING = 2**19
"""Scalars from which a packed weight is faster; a smaller one stays in the cache, and oneDNN takes 10 µs a call."""


def float32_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> Product:
    """The fastest product in the weight's own precision."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if weight.device.type != "cpu":
        return lambda x: functional.linear(x, weight, bias)
    if weight.dtype == torch.float32 and weight.numel() >= WORTH_PACKING and _has_onednn():
        return _packed(weight, bias)
    return _SmallBatchLinear(weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _packed(weight: Float[Tensor, "O I"], bias: Tensor | None) -> Product:
    """By oneDNN, with the weight in blocks of its own order: what PyTorch's compiler makes of frozen weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


class _SmallBatchLinear:
    """By the BLAS: one row as a vector; of several, weight @ x.T, up to three times as fast as x @ weight.T."""

    def __init__(self, weight: Float[Tensor, "O I"], bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        if len(x) == 1:
            return functional.linear(x, self._weight, self._bias)
        result = torch.mm(self._weight, x.T).T.contiguous()
        return result if self._bias is None else result.add_(self._bias)


def float16_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> Product:
    """The product with each weight rounded to float16, half of the memory to read; sums are float32.

    A small weight stays as it is. Needs a CPU that PyTorch has FBGEMM's kernels for (x86), else raises ConfigError.
    """
    if weight.numel() < WORTH_PACKING:
        return float32_linear(weight, bias)
    _require_fbgemm(weight, "float16")
    # Beyond float16's largest number there would be infinity.
    weight = weight.detach().float().clamp(-65504, 65504).contiguous()
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None if bias is None else bias.detach())
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: multiply(x, packed)


def _require_fbgemm(weight: Tensor, kind: str) -> None:
    if weight.device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ConfigError(f"weights = {kind} needs a CPU with x86's kernels for it.", hint="Use float32 weights.")


def int8_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> Product:
    """The product with each weight in one byte, a quarter of the memory to read; a small weight stays as it is.

    Each output has a scale of its own, and so has each row of x, so that no row of a batch changes another. Needs a CPU
    that PyTorch has byte kernels for (x86), else raises ConfigError.
    """
    if weight.numel() < WORTH_PACKING:
        return float32_linear(weight, bias)
    _require_fbgemm(weight, "int8")
    return _Bytes(weight.detach().float(), bias)


class _Bytes:
    """By FBGEMM: rows of x become bytes, too, scaled so that the largest of each is 1.

    FBGEMM takes one scale for all rows, from the smallest to the largest number among them. Two columns that no weight
    looks at hold −1 and 1, so that this scale is the same always.
    """

    def __init__(self, weight: Float[Tensor, "O I"], bias: Tensor | None) -> None:
        outputs = len(weight)
        self._bias = None if bias is None else bias.detach()
        # Four columns rather than two, as the kernels take four at a time.
        self._ends = torch.tensor([[-1.0, 1.0, 0.0, 0.0]])
        self._least = torch.tensor(1e-30)
        weight = functional.pad(weight, (0, self._ends.shape[1]))
        scales = weight.abs().amax(1).clamp(min=1e-30).double() / 127
        with warnings.catch_warnings():
            # PyTorch announces that its quantized tensors will be replaced; the kernels have no other door yet.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, torch.zeros(outputs).long(), 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._multiply = torch.ops.quantized.linear_dynamic.default

    def __call__(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        largest = torch.maximum(torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True), self._least)
        rows = torch.cat((x / largest, self._ends.expand(len(x), -1)), dim=1)
        # 7 bits where the CPU adds neighbouring products in 16 bits, which 8 would overflow.
        result = self._multiply(rows, self._packed, reduce_range=True).mul_(largest)
        return result if self._bias is None else result.add_(self._bias)
