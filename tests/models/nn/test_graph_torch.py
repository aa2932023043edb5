"""A family laid out for telling says what its model says, however a text is cut and whoever stands beside it."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabella.models.nn.graph_torch import copy_row, reset_row
from fabella.models.nn.packed_linear_torch import float32_linear
from fabella.models.nn.step_inputs_torch import DecodeInputs, PrefillInputs

# The same sums in another order, with the scales of norms multiplied into matrices.
LOGITS_TOLERANCE = 2e-5
BATCH, TIME = 3, 24


def model_of(family: Any) -> Any:
    model = family.model().requires_grad_(False)
    if not hasattr(model, "decoder"):
        pytest.skip(f"{family.name} is told by its step")
    return model


def one_more(tokens: Tensor, positions: list[int]) -> DecodeInputs:
    """As generation asks: with one position where all are equal."""
    if len(set(positions)) == 1:
        return DecodeInputs(tokens, tokens, shared_position=positions[0])
    return DecodeInputs(tokens, torch.tensor(positions), max_length=max(positions) + 1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=LOGITS_TOLERANCE, rtol=0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, TIME - 1), max_size=TIME, unique=True).map(lambda c: [0, *sorted(c), TIME]),
    row=st.integers(0, BATCH - 1),
)
def test_whole_equals_chunked(family: Any, cuts: list[int], row: int) -> None:
    model, tokens = model_of(family), family.tokens(1, TIME)[0]
    decoder, whole = model.decoder(float32_linear), model(tokens[None])[0]
    memory = decoder.start(BATCH, TIME)
    for start, end in pairwise(cuts):
        close(decoder.read(PrefillInputs(tokens[start:end], row, start), memory)[0], whole[end - 1])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, TIME - 4), min_size=1, max_size=BATCH))
def test_token_by_token_equals_whole_for_texts_at_different_places(family: Any, lengths: list[int]) -> None:
    model, tokens = model_of(family), family.tokens(len(lengths), TIME)
    decoder, whole = model.decoder(float32_linear), model(tokens)
    memory = decoder.start(BATCH, TIME)
    for row, length in enumerate(lengths):
        close(decoder.read(PrefillInputs(tokens[row, :length], row, 0), memory)[0], whole[row, length - 1])
    rows = torch.arange(len(lengths))
    for further in range(4):
        places = [length + further for length in lengths]
        close(decoder.read(one_more(tokens[rows, places], places), memory), whole[rows, places])


def test_positions_of_their_own_are_read_as_one_position_for_all(family: Any) -> None:
    """What a captured graph does: every position is a tensor, and all of the memory is looked at behind a mask."""
    model, tokens = model_of(family), family.tokens(BATCH, TIME)
    decoder, whole = model.decoder(float32_linear), model(tokens)
    memory = decoder.start(BATCH, TIME + 5)
    for place in range(TIME):
        each = DecodeInputs(tokens[:, place], torch.full((BATCH,), place), max_length=TIME + 5)
        close(decoder.read(each, memory), whole[:, place])


def test_a_text_goes_on_in_another_row(family: Any) -> None:
    model, tokens = model_of(family), family.tokens(1, TIME)[0]
    decoder, whole = model.decoder(float32_linear), model(tokens[None])[0]
    memory = decoder.start(BATCH, TIME)
    decoder.read(PrefillInputs(tokens[: TIME - 1], 2, 0), memory)
    copy_row(memory, 2, 0, TIME - 1)
    close(decoder.read(one_more(tokens[-1:], [TIME - 1]), memory)[0], whole[-1])


def test_a_row_forgets_the_text_before(family: Any) -> None:
    model, tokens = model_of(family), family.tokens(2, TIME)
    decoder = model.decoder(float32_linear)
    memory = decoder.start(BATCH, TIME)
    decoder.read(PrefillInputs(tokens[0], 1, 0), memory)
    reset_row(memory, 1)
    close(decoder.read(PrefillInputs(tokens[1], 1, 0), memory)[0], model(tokens[1:])[0, -1])


def test_a_recurrence_takes_the_same_memory_at_any_length(family: Any) -> None:
    if not family.config.unlimited_context:
        pytest.skip("attention remembers every token")
    decoder = model_of(family).decoder(float32_linear)
    few, many = decoder.start(2, 10), decoder.start(2, 10**9)
    assert [None if m is None else m.shape for m in few] == [None if m is None else m.shape for m in many]
    before = [None if m is None else m.data_ptr() for m in many]
    for place in range(100):
        decoder.read(one_more(torch.tensor([1, 2]), [place, place]), many)
    assert [None if m is None else m.data_ptr() for m in many] == before
