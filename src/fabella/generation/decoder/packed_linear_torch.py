"""Linear layers for the few rows of a decode step: constant weights, packed once and read at memory bandwidth.

Every token reads every weight once, so that memory bandwidth limits the speed. PyTorch's ``linear`` is tuned for many
rows: on a CPU it reaches half of the bandwidth with one row and a quarter with sixteen (docs/benchmarks.md).
"""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int8, Shaped
from torch import Tensor
from torch.nn import functional

from fabella.errors import ConfigError

PackedLinear = Callable[[Float[Tensor, "N I"]], Float[Tensor, "N O"]]
"""Function that returns x @ weight.T + bias for the packed weight."""
LinearFactory = Callable[[Float[Tensor, "O I"], Tensor | None], PackedLinear]
"""Packs a weight and an optional bias; later changes of the weight have no effect."""

PANEL_ROWS, PANEL_DEPTH_BYTES = 16, 64
"""As in panels.h: rows of a panel; a row is padded to a multiple of these bytes."""
ROWS = 16
"""Rows of x that a weight is packed for; with one row it is as fast as any other packing."""
MIN_PACKED_SIZE = 2**19
"""Elements from which packing is faster: a smaller weight stays in the cache, and oneDNN takes 10 µs a call."""


def float32_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> PackedLinear:
    """Return the fastest linear in the dtype of the weight."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if weight.device.type != "cpu":
        return lambda x: functional.linear(x, weight, bias)
    if weight.dtype == torch.float32 and weight.numel() >= MIN_PACKED_SIZE and _has_onednn():
        return _packed(weight, bias)
    return _SmallBatchLinear(weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _packed(weight: Float[Tensor, "O I"], bias: Tensor | None) -> PackedLinear:
    """Return a oneDNN linear with a blocked weight, as PyTorch's compiler makes for frozen weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


class _SmallBatchLinear:
    """BLAS linear: one row as a vector; several as weight @ x.T, up to three times as fast as x @ weight.T."""

    def __init__(self, weight: Float[Tensor, "O I"], bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        if len(x) == 1:
            return functional.linear(x, self._weight, self._bias)
        result = torch.mm(self._weight, x.T).T.contiguous()
        return result if self._bias is None else result.add_(self._bias)


def float16_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> PackedLinear:
    """Return a linear with the weight in float16, half of the memory traffic; sums are float32.

    A small weight stays float32. Raises ConfigError on a CPU without FBGEMM kernels (they are for x86).
    """
    if weight.numel() < MIN_PACKED_SIZE:
        return float32_linear(weight, bias)
    _require_fbgemm(weight, "float16")
    # A weight beyond float16's largest number would become infinity.
    weight = weight.detach().float().clamp(-65504, 65504).contiguous()
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None if bias is None else bias.detach())
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: multiply(x, packed)


def _require_fbgemm(weight: Tensor, kind: str) -> None:
    if weight.device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ConfigError(f"dtype = {kind} needs an x86 CPU.", hint="Use --dtype float32.")


def bfloat16_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> PackedLinear:
    """Return a linear with the weight in bfloat16, half of the memory traffic; x is rounded, too; sums are float32.

    A small weight stays float32.
    """
    if weight.numel() < MIN_PACKED_SIZE:
        return float32_linear(weight, bias)
    rounded, bias = weight.detach().bfloat16(), None if bias is None else bias.detach()

    def multiply(x: Tensor) -> Tensor:
        result = functional.linear(x.bfloat16(), rounded).to(x.dtype)
        return result if bias is None else result.add_(bias)

    return multiply


def int8_linear(weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> PackedLinear:
    """Return a linear with the weight in int8, a quarter of the memory traffic; a small weight stays float32.

    Each output and each row of x has its own scale, so that no row of a batch changes another. Raises ConfigError on a
    CPU without FBGEMM kernels (they are for x86).
    """
    if weight.numel() < MIN_PACKED_SIZE:
        return float32_linear(weight, bias)
    _require_fbgemm(weight, "int8")
    return _Int8Linear(weight.detach().float(), bias)


def quantize_rows(weight: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, " O"]]:
    """Return a weight in int8 and the scale of each row, whose largest magnitude becomes 127."""
    scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (weight / scales).round().to(torch.int8), scales.flatten()


def pack_panels(weight: Shaped[Tensor, "O I"]) -> Shaped[Tensor, "P D 16 G"]:
    """Return a weight in panels of 16 rows, as panels.h of the native decoder reads them, padded with zeros.

    G neighbors of a row have 32 bits, or 16 in float16; a row is padded to 64 bytes, which are D groups.
    """
    size = weight.element_size()
    rows, inputs = weight.shape
    padded = functional.pad(weight, (0, -inputs % (PANEL_DEPTH_BYTES // size), 0, -rows % PANEL_ROWS))
    group = 1 if weight.dtype == torch.float16 else 4 // size
    return padded.view(len(padded) // PANEL_ROWS, PANEL_ROWS, -1, group).transpose(1, 2).contiguous()


class _Int8Linear:
    """FBGEMM int8 linear; each row of x is quantized, too, after it is divided by its largest absolute value.

    FBGEMM uses one scale for all rows, from the smallest to the largest number of x. Two padding columns with weight 0
    hold −1 and 1, so that this scale is always the same.
    """

    def __init__(self, weight: Float[Tensor, "O I"], bias: Tensor | None) -> None:
        outputs = len(weight)
        self._bias = None if bias is None else bias.detach()
        # Four columns rather than two, as the kernels take four at a time.
        self._limits = torch.tensor([[-1.0, 1.0, 0.0, 0.0]])
        self._min_scale = torch.tensor(1e-30)
        weight = functional.pad(weight, (0, self._limits.shape[1]))
        scales = weight.abs().amax(1).clamp(min=1e-30).double() / 127
        with warnings.catch_warnings():
            # PyTorch announces a replacement of quantized tensors; there is no other interface to the kernels yet.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, torch.zeros(outputs).long(), 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._multiply = torch.ops.quantized.linear_dynamic.default

    def __call__(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "N O"]:
        largest = torch.maximum(torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True), self._min_scale)
        rows = torch.cat((x / largest, self._limits.expand(len(x), -1)), dim=1)
        # 7 bits where the CPU adds neighboring products in 16 bits, which 8 would overflow.
        result = self._multiply(rows, self._packed, reduce_range=True).mul_(largest)
        return result if self._bias is None else result.add_(self._bias)
