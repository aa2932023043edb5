"""Tests that perplexity scores every token of a text from the tokens before it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fabella.config.data import BPE
from fabella.data.batches import Batch
from fabella.errors import NumericsError, TextError
from fabella.generation import likelihood
from fabella.generation.likelihood import Perplexity, exp, measure, sequence_starts, token_text
from fabella.generation.likelihood_torch import token_losses
from fabella.tokenizers.loading import train
from fabella.tokenizers.tokenizer import Tokenizer
from tests.generation.fake_model import Config, Hashing
from tests.generation.tiny_run import tokenizer

CONTEXT = 16
# The same float32 log-probabilities, summed in another order.
TOLERANCE = 1e-5
MODEL = Hashing(Config(vocab_size=256, context_length=CONTEXT))


def score(batch: Batch) -> NDArray[np.float32]:
    return token_losses(MODEL, batch.tokens, batch.targets)


def measured(text: str, *, ids: Tokenizer | None = None) -> Perplexity:
    return measure(score, text, ids or tokenizer(), context_length=CONTEXT, vocab_size=256)


def by_definition(line: list[int], token: int) -> float:
    """Return the loss of ``line[token]`` in the first sequence that predicts it, in nats."""
    start = next(start for start in sequence_starts(len(line) - 1, CONTEXT).tolist() if token <= start + CONTEXT)
    before = torch.tensor([line[start:token]])
    return -float(MODEL(before)[0, -1].log_softmax(-1)[line[token]])


@settings(max_examples=30)
@given(text=st.text(min_size=1, max_size=60))
def test_every_token_is_predicted_in_its_sequence(text: str) -> None:
    result = measured(text)
    line = [255, *text.encode()]
    assert result.ids.tolist() == line[1:]
    assert result.nats.tolist() == pytest.approx(
        [by_definition(line, token) for token in range(1, len(line))], abs=TOLERANCE
    )


@given(length=st.integers(1, 2000), context_length=st.integers(1, 200))
def test_sequences_cover_every_token_with_half_a_context(length: int, context_length: int) -> None:
    starts = sequence_starts(length, context_length).tolist()
    assert starts[0] == 0
    assert starts[-1] + context_length >= length
    assert starts[-1] + min(context_length, length) == length
    done = context_length
    for start in starts[1:]:
        assert start <= done, "every token is covered"
        assert done - start >= context_length // 2, "each new token has half a context before it"
        done = start + context_length


def test_loss_perplexity_and_bits_per_byte_follow_their_definitions() -> None:
    result = measured("Hé! 🐉")
    assert result.bytes == len("Hé! 🐉".encode())
    total = sum(result.nats.tolist())
    assert result.loss == pytest.approx(total / len(result.ids))
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / result.bytes)


def test_bits_per_byte_do_not_depend_on_the_tokenizer_but_perplexity_does() -> None:
    """The loss of a token is proportional to its bytes, with a byte tokenizer and with BPE."""
    text = "the dragon and the princess " * 3
    bpe = train(BPE(vocab_size=270), [text])

    def uniform(nats_per_byte: float, ids: Tokenizer) -> Perplexity:
        def by_length(batch: Batch) -> NDArray[np.float32]:
            lengths = [[len(ids.token_bytes(t)) if t >= 0 else 0 for t in row] for row in batch.targets.tolist()]
            return np.array(lengths, dtype=np.float32) * nats_per_byte

        return measure(by_length, text, ids, context_length=CONTEXT, vocab_size=ids.vocab_size)

    by_bytes, by_tokens = uniform(0.5, tokenizer()), uniform(0.5, bpe)
    assert by_bytes.bits_per_byte == pytest.approx(by_tokens.bits_per_byte) == pytest.approx(0.5 / math.log(2))
    assert by_tokens.perplexity > by_bytes.perplexity


def test_the_first_token_is_scored_as_well() -> None:
    result = measured("abc")
    assert (result.ids.tolist(), result.bytes) == (list(b"abc"), 3)


@pytest.mark.parametrize(("characters", "sequences_used"), [(CONTEXT, 1), (CONTEXT + 1, 2), (CONTEXT * 2, 3)])
def test_sequences_are_counted(characters: int, sequences_used: int) -> None:
    assert measured("a" * characters).sequences == sequences_used


def test_batches_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of two sequences' logits gives batches of at most two, and the same result."""
    shapes: list[tuple[int, ...]] = []

    def recorded(batch: Batch) -> NDArray[np.float32]:
        shapes.append(batch.tokens.shape)
        return score(batch)

    text = "Once upon a time there was a dragon. " * 5
    whole = measured(text)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 2 * CONTEXT * 256)
    parts = measure(recorded, text, tokenizer(), context_length=CONTEXT, vocab_size=256)
    assert set(shapes) <= {(2, CONTEXT), (1, CONTEXT)}
    assert np.array_equal(parts.nats, whole.nats)


def test_rows_have_token_id_probability_nats_and_perplexity() -> None:
    result = measured("ab")
    first, second = result.rows(10)
    assert [first["token"], first["id"], second["token"], second["id"]] == ["a", 97, "b", 98]
    nats = result.nats[0]
    assert first["nats"] == nats
    assert (first["probability"], first["perplexity"]) == (
        pytest.approx(math.exp(-nats)),
        pytest.approx(math.exp(nats)),
    )
    assert len(list(result.rows(1))) == 1


def test_a_byte_of_an_incomplete_character_is_escaped() -> None:
    assert [token_text(tokenizer(), token) for token in "é".encode()] == [r"\xc3", r"\xa9"]


def test_a_perplexity_above_the_float_range_is_infinite() -> None:
    assert exp(1000.0) == math.inf
    assert exp(1.0) == pytest.approx(math.e)
    diverged = dataclasses.replace(measured("abc"), nats=np.full(3, 400.0))
    assert "perplexity 5.22e+173," in repr(diverged)


def test_a_text_without_a_token_to_predict_is_refused() -> None:
    with pytest.raises(TextError) as error:
        measured("")
    assert str(error.value) == "The text has no token to predict. Give at least a few words."


def test_a_nan_loss_is_an_error_that_names_the_token() -> None:
    def broken(batch: Batch) -> NDArray[np.float32]:
        losses = score(batch)
        losses[0, 2] = np.nan
        return losses

    with pytest.raises(NumericsError) as error:
        measure(broken, "abc", tokenizer(), context_length=CONTEXT, vocab_size=256)
    assert str(error.value).startswith("Token 3 ('c') has a loss of nan. The weights are damaged")
