"""Tests of products with packed weights: against float64, on this processor and with its instruction sets hidden."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import fabella
from fabella.generation.decoder.graph_torch import DecoderGraph, EmbeddingOp, LinearOp
from fabella.generation.decoder.lower_torch import lower
from fabella.generation.decoder.native import build
from fabella.generation.decoder.native.bindings_torch import NativeBackend, NativeProgram
from fabella.generation.decoder.packed_linear_torch import float32_linear, pack_panels, quantize_rows
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype
from fabella.native.build import NativeLibrary, build_library
from fabella.native.processor import processor_features
from tests.generation.decoder.native.test_bindings_torch import make_model, make_tokens

HIDDEN = {
    "nothing": "",
    "amx": "-mno-amx-int8 -mno-amx-bf16",
    "vnni and bf16": "-mno-amx-int8 -mno-amx-bf16 -mno-avx512vnni -mno-avx512bf16",
    "avx512": "-mno-avx512f",
    "avx512 and vnni": "-mno-avx512f -mno-avxvnni",
    "avx": "-mno-avx",
}
"""Compiler options that hide instruction sets: what a processor without them computes."""
DTYPES: tuple[WeightDtype, ...] = ("float16", "bfloat16", "int8")
ROUNDING = 2e-6
"""Of float32 sums, relative to the norm of the products."""

pytestmark = [
    pytest.mark.skipif(build.library().library is None, reason=build.library().warning),
    pytest.mark.skipif(not processor_features().startswith("x86_64"), reason="the compiler options are for x86"),
]


@cache
def built(hidden: str) -> NativeLibrary:
    flags = (*build.CODE.flags, *HIDDEN[hidden].split())
    return build_library(replace(build.CODE, flags=flags), lambda _: None)


@pytest.fixture(params=HIDDEN)
def library(request: pytest.FixtureRequest) -> Any:
    result = built(request.param)
    assert result.library is not None, result.warning
    return result.library


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest, library: Any) -> WeightDtype:
    if request.param == "float16" and not library.fabella_supports_dtype(1):
        pytest.skip("float16 needs F16C")
    return request.param


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def products(library: Any, dtype: WeightDtype, x: Tensor, weight: Tensor, bias: Tensor | None, batch: int) -> Tensor:
    """Return x @ weight.T + bias, ``batch`` rows at a time: the logits of a model that is an embedding and a head."""
    layer = torch.nn.Linear(*reversed(weight.shape), bias=bias is not None)
    layer.weight = torch.nn.Parameter(weight)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias)
    graph = DecoderGraph(EmbeddingOp(x), [], [LinearOp(float32_linear, None, layer)])
    backend = NativeBackend(NativeProgram(graph, library, dtype), batch, 1)
    rows = list(range(len(x)))
    parts = [rows[start : start + batch] for start in range(0, len(x), batch)]
    return torch.cat([backend.decode(part, [0] * len(part)).clone() for part in parts])


def rounded(weight: Tensor, dtype: WeightDtype) -> Tensor:
    if dtype == "int8":
        rows, scales = quantize_rows(weight)
        return rows.double() * scales[:, None].double()
    return (weight.half() if dtype == "float16" else weight.bfloat16()).double()


@pytest.mark.parametrize(
    ("inputs", "outputs", "count"),
    [(1, 1, 1), (5, 15, 3), (64, 16, 17), (100, 17, 33), (30, 33, 2), (768, 257, 40), (129, 96, 130)],
)
def test_products_are_those_of_the_rounded_weights(
    library: Any, dtype: WeightDtype, inputs: int, outputs: int, count: int
) -> None:
    """The inputs are exact in the dtype in which they are multiplied, so that only the sums are rounded."""
    x, weight, bias = random(count, inputs), random(outputs, inputs, seed=2), random(outputs, seed=3)
    x = rounded(x, "bfloat16" if dtype == "bfloat16" else dtype).float()
    for offset in (None, bias):
        expected = x.double() @ rounded(weight, dtype).T + (0 if offset is None else offset.double())
        one_by_one = products(library, dtype, x, weight, offset, 1)
        assert (one_by_one - expected).norm() < ROUNDING * expected.norm()
        for batch in (3, 16, count):
            in_batches = products(library, dtype, x, weight, offset, batch)
            assert torch.equal(in_batches, one_by_one), "the batch changes the bits"


@pytest.mark.parametrize("dtype", ["int8"])
def test_int8_products_have_the_same_bits_with_all_instruction_sets(library: Any, dtype: WeightDtype) -> None:
    x, weight = random(20, 100) * 10, random(70, 100, seed=2)
    reference = built("nothing").library
    assert torch.equal(products(library, dtype, x, weight, None, 20), products(reference, dtype, x, weight, None, 20))


@pytest.mark.parametrize("name", ["llama", "hybrid", "gpt2", "qwen", "gates and residuals"])
def test_a_sequence_has_the_same_bits_in_chunks_and_in_a_batch(library: Any, dtype: WeightDtype, name: str) -> None:
    model = make_model(name)
    tokens, exact = make_tokens(model), model(make_tokens(model))[:, -1]
    program = NativeProgram(lower(model, float32_linear), library, dtype)

    def last_logits(rows: list[int], cuts: list[int]) -> Tensor:
        backend, logits = NativeBackend(program, len(rows), tokens.shape[1]), torch.empty(0)
        for number in range(len(rows)):
            backend.reset(number)
        for start, end in pairwise(cuts):
            parts = [PrefillChunk(number, tokens[row, start:end].tolist(), start) for number, row in enumerate(rows)]
            logits = backend.prefill(parts)
        return logits

    end = tokens.shape[1]
    logits = last_logits([0, 1, 2], [0, end])
    assert (logits - exact).norm() < {"float16": 0.01, "bfloat16": 0.1, "int8": 0.3}[dtype] * exact.norm()
    assert torch.equal(logits, last_logits([0, 1, 2], [0, 3, 4, end]))
    assert torch.equal(logits, torch.cat([last_logits([row], list(range(end + 1))) for row in range(3)]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.bfloat16])
def test_a_panel_has_sixteen_rows_side_by_side(dtype: torch.dtype) -> None:
    weight = torch.arange(20 * 40).view(20, 40).remainder(127).to(dtype)
    panels = pack_panels(weight)
    group = panels.shape[3]
    assert panels.shape[:3] == (2, 64 // group, 16)  # 40 numbers, padded to 64 bytes
    for row, column in ((0, 0), (3, 7), (15, 39), (16, 1), (19, 38)):
        assert panels[row // 16, column // group, row % 16, column % group] == weight[row, column]
    assert panels.count_nonzero() == weight.count_nonzero()


STORY = """Once upon a time, there was a little girl named Lily. She had a red ball that she liked to throw high up.
One day the ball landed in a tree. Lily was sad and called her dog. The dog could not climb, but a small bird sat on the
branch. The bird pushed the ball until it fell down. Lily laughed and gave the bird some bread. From that day on, they
played together every morning, and Lily was never sad again."""


@cache
def included_model() -> tuple[Any, list[int]]:
    generator = fabella.load("storyteller", device="cpu", compile_decoder=False)
    ids = generator.tokenizer.encode(STORY)
    return generator.model.requires_grad_(False), [int(token) for token in ids]


def nats_per_token(library: Any, dtype: WeightDtype) -> float:
    model, ids = included_model()
    backend = NativeBackend(NativeProgram(lower(model, float32_linear), library, dtype), 1, len(ids))
    backend.reset(0)
    logits = torch.cat([backend.decode([token], [position]).clone() for position, token in enumerate(ids[:-1])])
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))


def test_smaller_weights_change_the_score_of_a_text_by_less_than_half_a_percent(
    library: Any, dtype: WeightDtype
) -> None:
    exact = nats_per_token(library, "float32")
    assert abs(nats_per_token(library, dtype) / exact - 1) < 0.005
