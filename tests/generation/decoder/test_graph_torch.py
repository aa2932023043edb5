"""Tests that a lowered family gives the logits of its model, for any chunking and any batch."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabella.generation.decoder.backends_torch import ModelBackend, compile_decoder, decode_backend
from fabella.generation.decoder.graph_torch import copy_row, reset_row
from fabella.generation.decoder.lower_torch import UnsupportedModelError, lower
from fabella.generation.decoder.packed_linear_torch import float32_linear
from fabella.generation.decoder.step_inputs_torch import DecodeInputs, PrefillInputs
from fabella.models.gpt2 import Config as GPT2Config
from fabella.models.gpt2_torch import Block as GPT2Block
from fabella.models.registry import family_module
from tests.models.conftest import Family

# The same sums in another order, with the scales of norms folded into the matrices.
LOGITS_TOLERANCE = 2e-5
BATCH, TIME = 3, 24


def make_model(family: Any) -> Any:
    return family.model().requires_grad_(False)


def decode_inputs(tokens: Tensor, positions: list[int]) -> DecodeInputs:
    """Return the inputs of a decode step as generation builds them: equal positions become one shared position."""
    if len(set(positions)) == 1:
        return DecodeInputs(tokens, tokens, shared_position=positions[0])
    return DecodeInputs(tokens, torch.tensor(positions), max_length=max(positions) + 1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=LOGITS_TOLERANCE, rtol=0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, TIME - 1), max_size=TIME, unique=True).map(lambda c: [0, *sorted(c), TIME]),
    row=st.integers(0, BATCH - 1),
)
def test_whole_equals_chunked(family: Any, cuts: list[int], row: int) -> None:
    model, tokens = make_model(family), family.tokens(1, TIME)[0]
    decoder, expected = lower(model, float32_linear), model(tokens[None])[0]
    cache = decoder.init_cache(BATCH, TIME)
    for start, end in pairwise(cuts):
        assert_close(decoder(PrefillInputs(tokens[start:end], row, start), cache)[0], expected[end - 1])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, TIME - 4), min_size=1, max_size=BATCH))
def test_token_by_token_equals_whole_for_rows_at_different_positions(family: Any, lengths: list[int]) -> None:
    model, tokens = make_model(family), family.tokens(len(lengths), TIME)
    decoder, expected = lower(model, float32_linear), model(tokens)
    cache = decoder.init_cache(BATCH, TIME)
    for row, length in enumerate(lengths):
        assert_close(decoder(PrefillInputs(tokens[row, :length], row, 0), cache)[0], expected[row, length - 1])
    rows = torch.arange(len(lengths))
    for step in range(4):
        positions = [length + step for length in lengths]
        assert_close(decoder(decode_inputs(tokens[rows, positions], positions), cache), expected[rows, positions])


def test_positions_per_row_give_the_same_logits_as_a_shared_position(family: Any) -> None:
    """As in a captured graph: positions are a tensor, and attention covers the complete cache with a mask."""
    model, tokens = make_model(family), family.tokens(BATCH, TIME)
    decoder, expected = lower(model, float32_linear), model(tokens)
    cache = decoder.init_cache(BATCH, TIME + 5)
    for position in range(TIME):
        inputs = DecodeInputs(tokens[:, position], torch.full((BATCH,), position), max_length=TIME + 5)
        assert_close(decoder(inputs, cache), expected[:, position])


def test_a_sequence_continues_in_another_row(family: Any) -> None:
    model, tokens = make_model(family), family.tokens(1, TIME)[0]
    decoder, expected = lower(model, float32_linear), model(tokens[None])[0]
    cache = decoder.init_cache(BATCH, TIME)
    decoder(PrefillInputs(tokens[: TIME - 1], 2, 0), cache)
    copy_row(cache, 2, 0, TIME - 1)
    assert_close(decoder(decode_inputs(tokens[-1:], [TIME - 1]), cache)[0], expected[-1])


def test_a_reset_row_forgets_its_sequence(family: Any) -> None:
    model, tokens = make_model(family), family.tokens(2, TIME)
    decoder = lower(model, float32_linear)
    cache = decoder.init_cache(BATCH, TIME)
    decoder(PrefillInputs(tokens[0], 1, 0), cache)
    reset_row(cache, 1)
    assert_close(decoder(PrefillInputs(tokens[1], 1, 0), cache)[0], model(tokens[1:])[0, -1])


def test_the_cache_of_a_recurrence_does_not_grow_with_the_length(family: Any) -> None:
    if not family.config.unlimited_context:
        pytest.skip("attention remembers every token")
    decoder = lower(make_model(family), float32_linear)
    short, long = decoder.init_cache(2, 10), decoder.init_cache(2, 10**9)
    assert [None if m is None else m.shape for m in short] == [None if m is None else m.shape for m in long]
    before = [None if m is None else m.data_ptr() for m in long]
    for position in range(100):
        decoder(decode_inputs(torch.tensor([1, 2]), [position, position]), long)
    assert [None if m is None else m.data_ptr() for m in long] == before


class Reordered(GPT2Block):
    """Has the modules of a known block, but applies them in parallel."""

    def forward(self, x: Tensor, kv_cache: Any = None, document_starts: Any = None) -> Tensor:
        return x + self.attention(self.attention_norm(x), kv_cache) + self.feed_forward(self.feed_forward_norm(x))


class Squared(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def gpt2() -> Any:
    return Family("gpt2", GPT2Config.tiny()).model().requires_grad_(False)


def test_known_modules_in_another_order_are_not_supported() -> None:
    model = gpt2()
    for block in model.blocks:
        block.__class__ = Reordered
    with pytest.raises(UnsupportedModelError, match="decode, which is not its blocks in order"):
        lower(model, float32_linear)


@pytest.mark.parametrize(
    "wrong",
    [{"heads": 1, "kv_heads": 1}, {"window": 6}, {"scale": None}, {"scale": 0.5}],
    ids=str,
)
def test_a_spec_that_is_not_what_the_attention_computes_is_not_supported(wrong: dict[str, Any]) -> None:
    model = make_model(Family("gpt_neo", family_module("gpt_neo").Config.tiny()))
    for block in model.blocks:
        for name in ("query", "key"):  # so large that attention chooses
            getattr(block.attention, name).weight.mul_(20)
        right = block.attention.spec
        block.attention.__class__ = type("Attention", (type(block.attention),), {"spec": right._replace(**wrong)})
    with pytest.raises(UnsupportedModelError, match="decode, which is not its blocks in order"):
        lower(model, float32_linear)


def test_an_attention_without_a_spec_is_not_supported() -> None:
    model = make_model(Family("qwen", family_module("qwen").Config.tiny()))
    for block in model.blocks:
        block.attention.__class__ = type("OwnAttention", (type(block.attention),), {"spec": None})
    with pytest.raises(UnsupportedModelError, match=r"^OwnAttention$"):
        lower(model, float32_linear)


def test_an_unknown_module_is_named_in_the_error() -> None:
    model = gpt2()
    model.blocks[1].feed_forward = Squared()
    with pytest.raises(UnsupportedModelError, match=r"^Squared$"):
        lower(model, float32_linear)


def test_a_model_that_cannot_be_lowered_is_decoded_by_the_model_with_a_warning() -> None:
    model = gpt2()
    model.blocks[1].feed_forward = Squared()
    warning = "Generation with family 'gpt2' is slower: the decoder does not support Squared."
    assert compile_decoder(model) == warning
    assert isinstance(decode_backend(model, 1, 12), ModelBackend)


def modern(**changes: Any) -> Family:
    tiny = family_module("modern").Config.tiny()
    return Family("modern", type(tiny).model_validate({**tiny.model_dump(), **changes}))


@pytest.mark.parametrize(
    "features", [(), ("qk_norm",), ("value_residual",), ("attention_gate",), ("embedding_residual",)]
)
@pytest.mark.parametrize("convolution", [0, 3, 12])
@pytest.mark.parametrize("pattern", ["a", "ma"])
def test_every_part_of_modern_is_lowered(features: tuple[str, ...], convolution: int, pattern: str) -> None:
    changes = {"features": features, "convolution": convolution, "layer_pattern": pattern}
    test_one_step_after_another_equals_whole(modern(**changes, layers=4))


def test_one_step_after_another_equals_whole(family: Any) -> None:
    model, tokens = make_model(family), family.tokens(2, 9)
    decoder, expected = lower(model, float32_linear), model(tokens)
    cache = decoder.init_cache(2, 9)
    for position in range(9):
        assert_close(decoder(decode_inputs(tokens[:, position], [position] * 2), cache), expected[:, position])


def test_a_convolution_that_no_mixer_follows_is_not_supported() -> None:
    model = make_model(modern())
    block = model.blocks[0]
    block._modules["convolution"] = block._modules.pop("convolution")
    with pytest.raises(UnsupportedModelError, match="a ShortConvolution that no mixer follows"):
        lower(model, float32_linear)


def test_a_convolution_before_an_mlp_is_not_supported() -> None:
    model = make_model(modern())
    block = model.blocks[0]
    block._modules = {
        name: block._modules[name]
        for name in ("mixer_norm", "mixer", "feed_forward_norm", "convolution", "feed_forward", "dropout")
    }
    with pytest.raises(UnsupportedModelError, match="SwiGLU after a ShortConvolution"):
        lower(model, float32_linear)
