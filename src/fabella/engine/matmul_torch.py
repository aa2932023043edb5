"""Choose how a CPU computes matrix products, by measuring them in the shapes of a model.

PyTorch has up to three ways on a CPU: its default BLAS library (MKL on x86), oneDNN with float32 inputs, and oneDNN
with bf16 inputs and float32 sums. Which is fastest depends on the processor: oneDNN's float32 is twice as fast as
MKL's on some, no faster on others, and rounds its inputs to bf16 where the processor has AMX. So speed and error are
measured, not looked up by the name of a processor. The measurement takes a few tenths of a second. It is cached per
processor, number of threads, PyTorch version and shapes, so that runs on one machine choose the same way.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import ParameterTable
from fabella.native.processor import processor_features
from fabella.storage.atomic_file import atomic_write
from fabella.storage.cache_dir import cache_dir
from fabella.storage.temp_files import make_dirs

Matmul = Literal["default", "onednn", "bf16"]
"""How products are computed: by PyTorch's default library, by oneDNN in float32, by oneDNN with bf16 inputs."""
Shape = tuple[int, int]
"""(inputs, outputs) of a linear layer."""

OVERRIDE = "FABELLA_MATMUL"
"""Environment variable that replaces the measurement: ``default``, ``onednn`` or ``bf16``."""
MAX_SHAPES, MAX_OUTPUTS, ROWS = 4, 8192, 512
"""Measured: at most so many shapes, so many outputs of each, and so many rows of the input."""
COMPARED_ROWS, TRIALS, MAX_SLOWDOWN = 8, 5, 2.0
"""Rows compared with float64; trials of each way; a way slower than the best by this factor is not tried again."""
MAX_ERROR = 1e-5
"""Largest error of a float32 product, as a share of its largest element. Float32 has 1e-6, rounded inputs 4e-3."""
MIN_SHARE = 0.75
"""Share of the processor, 0 to 1, that measured products need to be cached. Other programs leave half or less."""
MIN_SPEEDUP = 1.15
"""A way that is faster by less than this is not worth other bits."""


@dataclass(frozen=True, slots=True)
class MatmulSpeed:
    """Measurements of one way to compute products."""

    seconds: float
    """Of all products of the measured shapes, forward and backward."""
    error: float
    """Largest difference from float64, as a share of the largest element."""


Measured = Mapping[Matmul, MatmulSpeed]


@dataclass(frozen=True, slots=True)
class MatmulChoice:
    """The fastest way for a run in float32 and for one that allows bf16, with their speed relative to the default."""

    float32: Matmul
    fastest: Matmul
    float32_speedup: float = 1.0
    fastest_speedup: float = 1.0


def choose_matmul(parameters: ParameterTable) -> MatmulChoice:
    """Return the fastest ways on this CPU for a model with these weights: cached, or measured now.

    What was measured while other programs used the processor is not cached: it can be wrong.

    Raise ConfigError if the environment variable FABELLA_MATMUL has an unknown value.
    """
    if name := os.environ.get(OVERRIDE):
        return _override(name)
    shapes = main_shapes(parameters)
    file = cache_dir("matmul") / f"{_cache_key(shapes)}.json"
    with suppress(OSError, ValueError, TypeError):  # missing or damaged: measure again
        return MatmulChoice(**json.loads(file.read_text(encoding="utf-8")))
    usage = ProcessorUsage()
    chosen = fastest(measure(shapes, usage))
    if usage.share < MIN_SHARE:
        return chosen
    text = json.dumps(asdict(chosen))
    with suppress(OSError):  # a cache that cannot be written costs time only
        make_dirs(file.parent)
        atomic_write(file, text.encode())
    return chosen


def _override(name: str) -> MatmulChoice:
    way = parse_matmul(name)
    if way is None:
        raise ConfigError(f"Unknown {OVERRIDE} = {name!r}.", hint=did_you_mean(name, get_args(Matmul)))
    return MatmulChoice("default" if way == "bf16" else way, way)


def parse_matmul(name: str) -> Matmul | None:
    """Return the way of this name; None if there is none."""
    return next((way for way in get_args(Matmul) if way == name), None)


def is_available(way: Matmul) -> bool:
    """Return whether this CPU has instructions for the way. Without them, bf16 is a hundred times slower."""
    return way != "bf16" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cache_key(shapes: Sequence[Shape]) -> str:
    parts = [processor_features(), torch.__version__, str(torch.get_num_threads()), str(list(shapes))]
    parts += [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def main_shapes(parameters: ParameterTable) -> list[Shape]:
    """Return the shapes of the linear layers with most of the products, largest share first."""
    work: Counter[Shape] = Counter()
    for spec in parameters.values():
        if len(spec.shape) == 2:
            outputs, inputs = spec.shape
            work[inputs, min(outputs, MAX_OUTPUTS)] += spec.size
    return [shape for shape, _ in work.most_common(MAX_SHAPES)]


def fastest(measured: Measured) -> MatmulChoice:
    """Return the choice for these measurements."""
    default = measured["default"].seconds
    exact: Matmul = "default"
    if "onednn" in measured and measured["onednn"].error < MAX_ERROR:
        exact = _faster("onednn", "default", measured)
    allowed = _faster("bf16", exact, measured) if "bf16" in measured else exact
    return MatmulChoice(exact, allowed, default / measured[exact].seconds, default / measured[allowed].seconds)


def _faster(candidate: Matmul, current: Matmul, measured: Measured) -> Matmul:
    worth = measured[current].seconds > MIN_SPEEDUP * measured[candidate].seconds
    return candidate if worth else current


# ---------------------------------------------------------------- measuring


@dataclass(slots=True)
class ProcessorUsage:
    """Time of measured products, in seconds, and the processor time that all threads spent in it."""

    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def share(self) -> float:
        """Share of its threads' time, 0 to 1, in which this process had the processor: 1 on an idle machine."""
        return self.processor_seconds / (self.seconds * torch.get_num_threads()) if self.seconds else 1.0


def measure(shapes: Sequence[Shape], usage: ProcessorUsage) -> Measured:
    """Measure the products of linear layers, forward and backward, in every way that this CPU has; add to ``usage``."""
    ways: list[Matmul] = [way for way in get_args(Matmul) if is_available(way)]
    seconds, errors = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    random = torch.Generator().manual_seed(1)
    for inputs, outputs in shapes:
        sizes = ((ROWS, inputs), (outputs, inputs), (ROWS, outputs))
        x, weight, gradient = (torch.randn(*size, generator=random) for size in sizes)
        for a, b in ((x, weight.T), (gradient, weight), (gradient.T, x)):
            for way, speed in _measure_product(a, b, ways, usage).items():
                seconds[way] += speed.seconds
                errors[way] = max(errors[way], speed.error)
    return {way: MatmulSpeed(seconds[way], errors[way]) for way in ways}


def _measure_product(a: Tensor, b: Tensor, ways: Sequence[Matmul], usage: ProcessorUsage) -> Measured:
    """Measure ``a @ b`` in every way by turns, so that a busy moment of the machine affects all of them."""
    exact = a[:COMPARED_ROWS].double() @ b.double()
    half = a.bfloat16(), b.bfloat16()
    best, errors = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, 0.0)
    for trial in range(1 + TRIALS):  # the first one loads kernels
        for way in ways:
            if trial > 1 and best[way] > MAX_SLOWDOWN * min(best.values()):
                continue
            left, right = half if way == "bf16" else (a, b)
            with matmul_context(way):
                start, processor_start = time.perf_counter(), time.process_time()
                product = left @ right
                elapsed, processor_time = time.perf_counter() - start, time.process_time() - processor_start
            if trial:
                best[way] = min(best[way], elapsed)
                usage.seconds += elapsed
                usage.processor_seconds += processor_time
            else:
                errors[way] = ((product[:COMPARED_ROWS] - exact).abs().max() / exact.abs().max()).item()
    return {way: MatmulSpeed(best[way], errors[way]) for way in ways}


@contextmanager
def matmul_context(way: Matmul) -> Generator[None]:
    """Compute the float32 products of a CPU by oneDNN for the duration of the block, if ``way`` is that."""
    if way != "onednn":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
