"""The compiled step says what the model says, with the same bits however a text is cut and whoever stands beside it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabella.engine.engine_torch import load_model
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

pytestmark = pytest.mark.skipif(build.step().library is None, reason=build.step().remark)

# The same sums in another order.
LOGITS_TOLERANCE = 2e-5
BATCH, TIME, CONTEXT = 3, 24, PREFILL_CHUNK + 26
BESIDES = {
    "one key for all queries": {"family": "llama", "heads": 4, "kv_heads": 1, "dim": 24, "ffn_dim": 20},
    "a head of its own": {"family": "llama", "heads": 2, "kv_heads": 2, "tie_embeddings": False},
    "narrow hidden states": {"family": "mingru", "expansion": 0.5},
    "wide hidden states": {"family": "mingru", "expansion": 2.0},
    "attention first": {"family": "hybrid", "layer_pattern": "am"},
    "another GELU": {"family": "gpt2", "activation": "gelu_tanh", "tie_embeddings": False},
}


def config_of(name: str) -> ModelConfig:
    changes = dict(BESIDES.get(name, {"family": name}))
    tiny: ModelConfig = family_module(changes.pop("family")).Config.tiny()
    known = {key: value for key, value in changes.items() if key in type(tiny).model_fields}
    return type(tiny).model_validate({**tiny.model_dump(), **known, "context_length": CONTEXT})


def model_of(name: str, weights: WeightDtype = "float32") -> Any:
    """Larger weights, so that no two ids are about equally likely."""
    config = config_of(name)
    table = initial_weights(config.parameters(), seed=5)
    model: Any = load_model(config, {key: a * 3 if a.ndim == 2 else a for key, a in table.items()}, "cpu")
    assert compile_decoder(model, weights) == ""
    return model


def rows_for(model: Any, rows: int = BATCH, capacity: int = CONTEXT) -> NativeBackend:
    found = decode_backend(model, rows, capacity)
    assert isinstance(found, NativeBackend)
    for row in range(rows):
        found.reset(row)
    return found


def tokens_of(model: Any, batch: int = BATCH, time: int = TIME) -> Tensor:
    return torch.randint(model.config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(1))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=LOGITS_TOLERANCE, rtol=LOGITS_TOLERANCE)


@pytest.fixture(params=[*family_names(), *BESIDES])
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
    """Also beyond the stretch that is read at once."""
    model = model_of(name)
    tokens = tokens_of(model, 1, CONTEXT)
    whole, rows = model(tokens)[0], rows_for(model)
    for start, end in pairwise(cuts):
        said = rows.prefill([PrefillChunk(row, tokens[0, start:end].tolist(), start)])
        close(said[0], whole[end - 1])
    at_once = rows_for(model).prefill([PrefillChunk(0, tokens[0].tolist(), 0)])
    assert torch.equal(said, at_once), "the same text has other bits when it is read in pieces"


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=BATCH, max_size=BATCH),
    cuts=st.lists(st.integers(0, CONTEXT), min_size=BATCH, max_size=BATCH),
)
def test_several_texts_read_at_once_have_the_bits_that_each_has_alone(
    name: str, lengths: list[int], cuts: list[int]
) -> None:
    """From the beginning, and from the middle on; together they are longer than the stretch that is read at once."""
    model = model_of(name)
    texts = [tokens_of(model, 1, length)[0].tolist() for length in lengths]
    rows = rows_for(model)
    first = [
        PrefillChunk(row, text[:cut], 0) for row, (text, cut) in enumerate(zip(texts, cuts, strict=True)) if text[:cut]
    ]
    rest = [
        PrefillChunk(row, text[cut:], cut)
        for row, (text, cut) in enumerate(zip(texts, cuts, strict=True))
        if text[cut:]
    ]
    for parts in filter(None, (first, rest)):
        for part, said in zip(parts, rows.prefill(parts), strict=True):
            whole = texts[part.row][: part.start + len(part.tokens)]
            assert torch.equal(said, rows_for(model, 1).prefill([PrefillChunk(0, whole, 0)])[0])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, TIME - 4), min_size=1, max_size=BATCH))
def test_token_by_token_equals_whole_for_texts_at_different_places(name: str, lengths: list[int]) -> None:
    model = model_of(name)
    tokens, rows = tokens_of(model, len(lengths)), rows_for(model)
    whole = model(tokens)
    for row, length in enumerate(lengths):
        rows.prefill([PrefillChunk(row, tokens[row, :length].tolist(), 0)])
    numbers = torch.arange(len(lengths))
    for further in range(4):
        places = [length + further for length in lengths]
        said = rows.decode(tokens[numbers, places].tolist(), places)
        close(said, whole[numbers, places])
    for row, length in enumerate(lengths):
        alone = rows_for(model, 1).prefill([PrefillChunk(0, tokens[row, : length + 4].tolist(), 0)])
        assert torch.equal(said[row], alone[0]), "a text has other bits beside others"


def test_what_is_told_is_what_pytorch_tells(name: str) -> None:
    model = model_of(name)
    prompts = [[3, 1, 4, 1, 5], [2, 7], [1] * 30]
    compiled = complete(model, prompts, SamplingParams(temperature=0), max_tokens=60)
    compile_decoder(model, native=False)
    assert isinstance(decode_backend(model, 1, 12), TensorBackend)
    assert complete(model, prompts, SamplingParams(temperature=0), max_tokens=60) == compiled


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_any_number_of_threads_gives_the_same_bits(name: str, weights: WeightDtype, threads: None) -> None:
    model, said = model_of(name, weights), list[Tensor]()
    tokens = tokens_of(model)
    for count in (1, 3):
        torch.set_num_threads(count)
        rows = rows_for(model)
        read = [rows.prefill([PrefillChunk(row, tokens[row].tolist(), 0)]) for row in range(BATCH)]
        said.append(torch.cat([*read, rows.decode(tokens[:, 0].tolist(), [TIME] * BATCH)]))
    assert torch.equal(said[0], said[1])


def test_a_text_goes_on_in_another_row_and_a_row_forgets(name: str) -> None:
    model = model_of(name)
    tokens, rows = tokens_of(model), rows_for(model)
    rows.prefill([PrefillChunk(2, tokens[0, :-1].tolist(), 0)])
    rows.prefill([PrefillChunk(1, tokens[1].tolist(), 0)])
    rows.copy_row(2, 0, TIME - 1)
    close(rows.decode(tokens[:1, -1].tolist(), [TIME - 1]), model(tokens[:1])[:, -1])
    rows.reset(1)
    close(rows.prefill([PrefillChunk(1, tokens[2].tolist(), 0)]), model(tokens[2:])[:, -1])


def test_the_logits_lie_where_they_lay(name: str) -> None:
    model = model_of(name)
    rows = rows_for(model)
    said = {rows.decode([1, 2], [place, place]).data_ptr() for place in range(20)}
    assert len(said) == 1


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_weights_that_are_no_numbers_give_logits_that_are_none(name: str, weights: WeightDtype) -> None:
    config = config_of(name)
    table = initial_weights(config.parameters(), seed=5)
    first = next(key for key, array in table.items() if array.ndim == 2)
    table[first][3] = float("nan")
    model: Any = load_model(config, table, "cpu")
    compile_decoder(model, weights)
    assert torch.isnan(rows_for(model).prefill([PrefillChunk(0, [1, 3, 2], 0)])).all()


def test_what_is_beyond_the_tables_is_refused(name: str) -> None:
    model = model_of(name)
    rows = rows_for(model, 1, 10)
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(IndexError, match="an id beyond the"):
            rows.prefill([PrefillChunk(0, [1, wrong], 0)])
        with pytest.raises(IndexError, match="an id beyond the"):
            rows.decode([wrong], [0])
    with pytest.raises(IndexError, match="position 10 of 10"):
        rows.decode([1], [10])


def test_an_operation_that_the_native_backend_lacks_runs_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(StatelessOp):
        def __call__(self, x: Tensor, inputs: Any, cache: None) -> Tensor:
            return x.clone()

    def lower_with_doubled(model: Any, factory: Any) -> Any:
        graph = lower(model, factory)
        graph.ops = [*graph.ops, Doubled()]
        return graph

    model = model_of("llama")
    monkeypatch.setattr(backends_torch, "lower", lower_with_doubled)
    assert compile_decoder(model) == ""
    assert isinstance(decode_backend(model, 1, 12), TensorBackend)
