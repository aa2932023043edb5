"""Known answers: a model that knows nothing, one that knows all, and the same text in other tokens."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fabella.errors import NumericsError, TextError
from fabella.evaluation.predictions import Predict, Predictions
from fabella.evaluation.predictions_torch import predictions
from fabella.evaluation.scores import Scores, score
from fabella.evaluation.scoring_batches import Document, of_texts
from fabella.generation.likelihood import measure
from fabella.models import IGNORE
from tests.generation.fake_model import Config, Hashing
from tests.generation.tiny_run import tokenizer

TEXTS = ["Once upon a time there was a dog.", "Zoë saw a 🐉.", "The end."]
CONTEXT, END = 16, 255
# Float32 sums against each other, in other orders.
TOLERANCE = 1e-5


def scored(predict: Predict, texts: list[str] = TEXTS, *, context: int = CONTEXT) -> Scores:
    return score(predict, of_texts(texts, tokenizer()), context=context, vocab_size=256, end=END)


def of(nats: float, confidence: float = 1.0, *, right: bool = True) -> Predict:
    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        shape = targets.shape
        return Predictions(
            np.full(shape, nats, np.float32), np.full(shape, confidence, np.float32), np.full(shape, right)
        )

    return predict


def test_who_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    found = scored(of(math.log(256), 1 / 256, right=False))
    assert found.perplexity.value == pytest.approx(256, rel=TOLERANCE)
    assert found.bits_per_byte.value == pytest.approx(8 * found.tokens / found.bytes, rel=TOLERANCE)


def test_who_knows_all_has_a_perplexity_of_1_and_no_error() -> None:
    found = scored(of(0.0))
    assert found.perplexity.value == 1.0
    assert (found.calibration.accuracy, found.calibration.error) == (1.0, 0.0)


def test_bits_per_byte_are_the_same_in_other_tokens() -> None:
    """The same distribution over texts, told in bytes and in pairs of bytes: a pair's surprise is that of both."""
    by_bytes = {"ab": [1.0, 2.0], "ba": [0.5, 3.0]}
    singles = [Document(np.array([0, 1, 2], np.int32), 2), Document(np.array([1, 0, 2], np.int32), 2)]
    pairs = [Document(np.array([3, 2], np.int32), 2), Document(np.array([4, 2], np.int32), 2)]
    ending = 0.25

    def spelled(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, wanted in enumerate(targets.tolist()):
            nats[row] = [*by_bytes["ab" if wanted[0] == 0 else "ba"], ending]
        return Predictions(nats, nats, nats > 0)

    def paired(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, wanted in enumerate(targets.tolist()):
            nats[row] = [sum(by_bytes["ab" if wanted[0] == 3 else "ba"]), ending]
        return Predictions(nats, nats, nats > 0)

    one = score(spelled, singles, context=8, vocab_size=5, end=2)
    other = score(paired, pairs, context=8, vocab_size=5, end=2)
    assert one.bits_per_byte == other.bits_per_byte
    assert one.loss.value != other.loss.value


def test_a_score_is_that_of_each_document_by_itself() -> None:
    """Whatever is read together: what ``fabella perplexity`` says of each, and its end."""
    model = Hashing(Config(vocab_size=256, context_length=64))

    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        return predictions(model, tokens, targets)

    nats = 0.0
    for text in TEXTS:
        line = np.array([[END, *text.encode(), END]], np.int32)
        alone = measure(
            lambda batch: predict(batch.tokens, batch.targets).nats, text, tokenizer(), context=64, vocab_size=256
        )
        nats += float(alone.nats.sum()) + float(predict(line[:, :-1], line[:, 1:]).nats[0, -1])
    found = scored(predict, context=64)
    assert found.loss.value * found.tokens == pytest.approx(nats, rel=TOLERANCE)
    assert found.tokens == sum(len(text.encode()) + 1 for text in TEXTS)


def test_predictions_are_those_of_the_logits() -> None:
    model = Hashing(Config(vocab_size=32, context_length=CONTEXT))
    tokens = np.random.default_rng(0).integers(0, 32, (3, 9)).astype(np.int32)
    targets = np.roll(tokens, -1, axis=1)
    targets[1, 4:] = IGNORE
    made = predictions(model, tokens, targets)
    log = model(torch.from_numpy(tokens.astype(np.int64))).log_softmax(-1).numpy()
    learned = targets != IGNORE
    expected = np.take_along_axis(log, np.maximum(targets, 0)[..., None], 2)[..., 0]
    np.testing.assert_allclose(made.nats[learned], -expected[learned], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(made.confidence, np.exp(log.max(-1)), rtol=TOLERANCE)
    assert (made.correct == (log.argmax(-1) == targets)).all()


def test_places_double_and_hold_every_token() -> None:
    found = scored(of(2.0))
    assert [(place.first, place.last) for place in found.places] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 16)]
    assert sum(place.tokens for place in found.places) == found.tokens
    assert {place.loss for place in found.places} == {2.0}


def test_calibration_finds_who_is_too_sure() -> None:
    found = scored(of(1.0, 0.75, right=False)).calibration
    assert found.error == pytest.approx(0.75)
    assert [(each.low, each.tokens > 0) for each in found.bins if each.tokens] == [(0.7, True)]


def test_documents_are_told_apart() -> None:
    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.where((targets == ord("Z")).any(axis=1, keepdims=True), 5.0, 1.0) * np.ones(targets.shape)
        return Predictions(nats.astype(np.float32), np.ones(targets.shape, np.float32), targets > 0)

    found = scored(predict, context=64)
    assert found.hardest[0].document == 1
    assert found.easiest[-1].document == 1


def test_nothing_to_score_and_no_number_are_errors() -> None:
    with pytest.raises(TextError, match="no document to score"):
        scored(of(1.0), [])
    with pytest.raises(NumericsError, match="document 2 has no finite probability"):
        scored(of(math.nan))
