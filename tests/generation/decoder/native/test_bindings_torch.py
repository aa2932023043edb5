"""Tests that the native backend computes the logits of the model, with the same bits for any chunking and batch."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabella.engine.build_model_torch import load_model
from fabella.generation.decoder import backends_torch
from fabella.generation.decoder.backends_torch import TensorBackend, compile_decoder, decode_backend
from fabella.generation.decoder.graph_torch import StatelessOp
from fabella.generation.decoder.lower_torch import lower
from fabella.generation.decoder.native import build
from fabella.generation.decoder.native.bindings_torch import PREFILL_CHUNK, NativeBackend
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module, family_names
from tests.generation.test_generate_torch import complete

pytestmark = pytest.mark.skipif(build.library().library is None, reason=build.library().warning)

# The sums are the same, in another order.
LOGITS_TOLERANCE = 2e-5
BATCH, TIME, CONTEXT = 3, 24, PREFILL_CHUNK + 26
VARIANTS = {
    "one key-value head": {"family": "llama", "heads": 4, "kv_heads": 1, "dim": 24, "ffn_dim": 20},
    "untied head": {"family": "llama", "heads": 2, "kv_heads": 2, "tie_embeddings": False},
    "narrow hidden states": {"family": "mingru", "expansion": 0.5},
    "wide hidden states": {"family": "mingru", "expansion": 2.0},
    "attention first": {"family": "hybrid", "layer_pattern": "am"},
    "no biases, no head norms": {"family": "qwen", "qkv_bias": False, "qk_norm": False, "head_dim": 16},
    "a head rotated in full": {"family": "gpt_neox", "rotary_fraction": 1.0, "tie_embeddings": True},
    "local attention only": {"family": "gpt_neo", "window": 2, "layer_pattern": "l"},
    "gates and residuals": {"family": "modern", "convolution": 0},
    "attention with gates": {"family": "modern", "convolution": 0, "layer_pattern": "a", "heads": 3, "kv_heads": 3},
    "gated MinGRU only": {"family": "modern", "convolution": 0, "layer_pattern": "m", "tie_embeddings": True},
    "a norm of the embeddings only": {"family": "modern", "convolution": 0, "features": ()},
    "a long convolution before attention": {
        "family": "modern",
        "convolution": 40,
        "layer_pattern": "a",
        "features": (),
    },
    "a short convolution before MinGRU": {"family": "modern", "convolution": 2, "layer_pattern": "m"},
    "tanh GELU": {"family": "gpt2", "activation": "gelu_tanh", "tie_embeddings": False},
}


def make_config(name: str) -> ModelConfig:
    changes = dict(VARIANTS.get(name, {"family": name}))
    tiny: ModelConfig = family_module(changes.pop("family")).Config.tiny()
    present = {key: value for key, value in changes.items() if key in type(tiny).model_fields}
    return type(tiny).model_validate({**tiny.model_dump(), **present, "context_length": CONTEXT})


def make_model(name: str, weights: WeightDtype = "float32") -> Any:
    """Return a compiled model with weights so large that no two ids are about equally likely."""
    config = make_config(name)
    table = initial_weights(config.parameters(), seed=5)
    model: Any = load_model(config, {key: a * 3 if a.ndim == 2 else a for key, a in table.items()}, "cpu")
    assert compile_decoder(model, weights) == ""
    return model


def backend_for(model: Any, rows: int = BATCH, capacity: int = CONTEXT) -> NativeBackend:
    backend = decode_backend(model, rows, capacity)
    assert isinstance(backend, NativeBackend)
    for row in range(rows):
        backend.reset(row)
    return backend


def make_tokens(model: Any, batch: int = BATCH, time: int = TIME) -> Tensor:
    return torch.randint(model.config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(1))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)


@pytest.fixture(params=[*family_names(), *VARIANTS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, CONTEXT - 1), max_size=5, unique=True).map(lambda c: [0, *sorted(c), CONTEXT]),
    row=st.integers(0, BATCH - 1),
)
def test_whole_equals_chunked(name: str, cuts: list[int], row: int) -> None:
    """The sequence is longer than one prefill chunk."""
    model = make_model(name)
    tokens = make_tokens(model, 1, CONTEXT)
    whole, backend = model(tokens)[0], backend_for(model)
    for start, end in pairwise(cuts):
        logits = backend.prefill([PrefillChunk(row, tokens[0, start:end].tolist(), start)])
        assert_close(logits[0], whole[end - 1])
    at_once = backend_for(model).prefill([PrefillChunk(0, tokens[0].tolist(), 0)])
    assert torch.equal(logits, at_once), "chunking changes the bits"


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=BATCH, max_size=BATCH),
    cuts=st.lists(st.integers(0, CONTEXT), min_size=BATCH, max_size=BATCH),
)
def test_prompts_prefilled_in_one_batch_have_the_same_bits_as_single_ones(
    name: str, lengths: list[int], cuts: list[int]
) -> None:
    """From position 0 and from the middle; the prompts are longer than one prefill chunk in total."""
    model = make_model(name)
    prompts = [make_tokens(model, 1, length)[0].tolist() for length in lengths]
    backend = backend_for(model)
    first = [
        PrefillChunk(row, prompt[:cut], 0)
        for row, (prompt, cut) in enumerate(zip(prompts, cuts, strict=True))
        if prompt[:cut]
    ]
    rest = [
        PrefillChunk(row, prompt[cut:], cut)
        for row, (prompt, cut) in enumerate(zip(prompts, cuts, strict=True))
        if prompt[cut:]
    ]
    for parts in filter(None, (first, rest)):
        for part, logits in zip(parts, backend.prefill(parts), strict=True):
            whole = prompts[part.row][: part.start + len(part.tokens)]
            assert torch.equal(logits, backend_for(model, 1).prefill([PrefillChunk(0, whole, 0)])[0])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, TIME - 4), min_size=1, max_size=BATCH))
def test_token_by_token_equals_whole_for_rows_at_different_positions(name: str, lengths: list[int]) -> None:
    model = make_model(name)
    tokens, backend = make_tokens(model, len(lengths)), backend_for(model)
    whole = model(tokens)
    for row, length in enumerate(lengths):
        backend.prefill([PrefillChunk(row, tokens[row, :length].tolist(), 0)])
    numbers = torch.arange(len(lengths))
    for further in range(4):
        positions = [length + further for length in lengths]
        logits = backend.decode(tokens[numbers, positions].tolist(), positions)
        assert_close(logits, whole[numbers, positions])
    for row, length in enumerate(lengths):
        single_row = backend_for(model, 1).prefill([PrefillChunk(0, tokens[row, : length + 4].tolist(), 0)])
        assert torch.equal(logits[row], single_row[0]), "the batch changes the bits"


def test_completions_equal_those_of_the_pytorch_backend(name: str) -> None:
    model = make_model(name)
    prompts = [[3, 1, 4, 1, 5], [2, 7], [1] * 30]
    compiled = complete(model, prompts, SamplingParams(temperature=0), max_tokens=60)
    compile_decoder(model, native=False)
    assert isinstance(decode_backend(model, 1, 12), TensorBackend)
    assert complete(model, prompts, SamplingParams(temperature=0), max_tokens=60) == compiled


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16", "int8"])
def test_the_number_of_threads_does_not_change_the_bits(name: str, weights: WeightDtype, threads: None) -> None:
    model, logits = make_model(name, weights), list[Tensor]()
    tokens = make_tokens(model)
    for count in (1, 3):
        torch.set_num_threads(count)
        backend = backend_for(model)
        read = [backend.prefill([PrefillChunk(row, tokens[row].tolist(), 0)]) for row in range(BATCH)]
        logits.append(torch.cat([*read, backend.decode(tokens[:, 0].tolist(), [TIME] * BATCH)]))
    assert torch.equal(logits[0], logits[1])


def test_a_sequence_continues_in_another_row_and_a_row_can_be_reset(name: str) -> None:
    model = make_model(name)
    tokens, backend = make_tokens(model), backend_for(model)
    backend.prefill([PrefillChunk(2, tokens[0, :-1].tolist(), 0)])
    backend.prefill([PrefillChunk(1, tokens[1].tolist(), 0)])
    backend.copy_row(2, 0, TIME - 1)
    assert_close(backend.decode(tokens[:1, -1].tolist(), [TIME - 1]), model(tokens[:1])[:, -1])
    backend.reset(1)
    assert_close(backend.prefill([PrefillChunk(1, tokens[2].tolist(), 0)]), model(tokens[2:])[:, -1])


def test_decode_reuses_the_memory_of_the_logits(name: str) -> None:
    model = make_model(name)
    backend = backend_for(model)
    logits = {backend.decode([1, 2], [position, position]).data_ptr() for position in range(20)}
    assert len(logits) == 1


@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16", "int8"])
def test_nan_weights_give_nan_logits(name: str, weights: WeightDtype) -> None:
    config = make_config(name)
    table = initial_weights(config.parameters(), seed=5)
    first = next(key for key, array in table.items() if array.ndim == 2)
    table[first][3] = float("nan")
    model: Any = load_model(config, table, "cpu")
    compile_decoder(model, weights)
    assert torch.isnan(backend_for(model).prefill([PrefillChunk(0, [1, 3, 2], 0)])).all()


def test_ids_and_positions_out_of_range_are_errors(name: str) -> None:
    model = make_model(name)
    backend = backend_for(model, 1, 10)
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(IndexError, match="Expected token ids from 0 to"):
            backend.prefill([PrefillChunk(0, [1, wrong], 0)])
        with pytest.raises(IndexError, match="Expected token ids from 0 to"):
            backend.decode([wrong], [0])
    with pytest.raises(IndexError, match="Expected a position below 10, got 10"):
        backend.decode([1], [10])


def test_an_operation_that_the_native_backend_lacks_runs_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(StatelessOp):
        def __call__(self, x: Tensor, inputs: Any, cache: None) -> Tensor:
            return x.clone()

    def lower_with_doubled(model: Any, factory: Any) -> Any:
        graph = lower(model, factory)
        graph.ops = [*graph.ops, Doubled()]
        return graph

    model = make_model("llama")
    monkeypatch.setattr(backends_torch, "lower", lower_with_doubled)
    assert compile_decoder(model) == ""
    assert isinstance(decode_backend(model, 1, 12), TensorBackend)
