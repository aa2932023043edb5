"""Tests of the scores of predictors with known results: uniform, perfect, and the same text with other tokens."""

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
CONTEXT, EOS = 16, 255
# Float32 sums in different orders.
TOLERANCE = 1e-5


def scored(predict: Predict, texts: list[str] = TEXTS, *, context: int = CONTEXT) -> Scores:
    return score(predict, of_texts(texts, tokenizer()), context=context, vocab_size=256, eos_id=EOS)


def constant(nats: float, confidence: float = 1.0, *, correct: bool = True) -> Predict:
    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        shape = targets.shape
        return Predictions(
            np.full(shape, nats, np.float32), np.full(shape, confidence, np.float32), np.full(shape, correct)
        )

    return predict


def test_a_uniform_model_has_the_vocabulary_size_as_perplexity() -> None:
    result = scored(constant(math.log(256), 1 / 256, correct=False))
    assert result.perplexity.value == pytest.approx(256, rel=TOLERANCE)
    assert result.bits_per_byte.value == pytest.approx(8 * result.tokens / result.bytes, rel=TOLERANCE)


def test_a_perfect_model_has_perplexity_1_and_no_calibration_error() -> None:
    result = scored(constant(0.0))
    assert result.perplexity.value == 1.0
    assert (result.calibration.accuracy, result.calibration.error) == (1.0, 0.0)


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    """The same distribution over texts with bytes and with pairs of bytes as tokens: the nats of a pair are summed."""
    by_bytes = {"ab": [1.0, 2.0], "ba": [0.5, 3.0]}
    singles = [Document(np.array([0, 1, 2], np.int32), 2), Document(np.array([1, 0, 2], np.int32), 2)]
    pairs = [Document(np.array([3, 2], np.int32), 2), Document(np.array([4, 2], np.int32), 2)]
    ending = 0.25

    def predict_bytes(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, labels in enumerate(targets.tolist()):
            nats[row] = [*by_bytes["ab" if labels[0] == 0 else "ba"], ending]
        return Predictions(nats, nats, nats > 0)

    def predict_pairs(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, labels in enumerate(targets.tolist()):
            nats[row] = [sum(by_bytes["ab" if labels[0] == 3 else "ba"]), ending]
        return Predictions(nats, nats, nats > 0)

    by_byte = score(predict_bytes, singles, context=8, vocab_size=5, eos_id=2)
    by_pair = score(predict_pairs, pairs, context=8, vocab_size=5, eos_id=2)
    assert by_byte.bits_per_byte == by_pair.bits_per_byte
    assert by_byte.loss.value != by_pair.loss.value


def test_the_score_is_the_sum_of_single_documents() -> None:
    """The batch does not matter: the sum of ``fabella perplexity`` of each document and of its EOS."""
    model = Hashing(Config(vocab_size=256, context_length=64))

    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        return predictions(model, tokens, targets)

    nats = 0.0
    for text in TEXTS:
        line = np.array([[EOS, *text.encode(), EOS]], np.int32)
        single = measure(
            lambda batch: predict(batch.tokens, batch.targets).nats,
            text,
            tokenizer(),
            context_length=64,
            vocab_size=256,
        )
        nats += float(single.nats.sum()) + float(predict(line[:, :-1], line[:, 1:]).nats[0, -1])
    result = scored(predict, context=64)
    assert result.loss.value * result.tokens == pytest.approx(nats, rel=TOLERANCE)
    assert result.tokens == sum(len(text.encode()) + 1 for text in TEXTS)


def test_predictions_are_those_of_the_logits() -> None:
    model = Hashing(Config(vocab_size=32, context_length=CONTEXT))
    tokens = np.random.default_rng(0).integers(0, 32, (3, 9)).astype(np.int32)
    targets = np.roll(tokens, -1, axis=1)
    targets[1, 4:] = IGNORE
    result = predictions(model, tokens, targets)
    log = model(torch.from_numpy(tokens.astype(np.int64))).log_softmax(-1).numpy()
    scored_targets = targets != IGNORE
    expected = np.take_along_axis(log, np.maximum(targets, 0)[..., None], 2)[..., 0]
    np.testing.assert_allclose(result.nats[scored_targets], -expected[scored_targets], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(result.confidence, np.exp(log.max(-1)), rtol=TOLERANCE)
    assert (result.correct == (log.argmax(-1) == targets)).all()


def test_positions_are_grouped_by_doubling_and_cover_every_token() -> None:
    result = scored(constant(2.0))
    assert [(group.first, group.last) for group in result.positions] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 16)]
    assert sum(group.tokens for group in result.positions) == result.tokens
    assert {group.loss for group in result.positions} == {2.0}


def test_calibration_detects_overconfidence() -> None:
    result = scored(constant(1.0, 0.75, correct=False)).calibration
    assert result.error == pytest.approx(0.75)
    assert [(bin_.low, bin_.tokens > 0) for bin_ in result.bins if bin_.tokens] == [(0.7, True)]


def test_the_easiest_and_hardest_documents_are_listed() -> None:
    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.where((targets == ord("Z")).any(axis=1, keepdims=True), 5.0, 1.0) * np.ones(targets.shape)
        return Predictions(nats.astype(np.float32), np.ones(targets.shape, np.float32), targets > 0)

    result = scored(predict, context=64)
    assert result.hardest[0].document == 1
    assert result.easiest[-1].document == 1


def test_an_empty_text_and_nan_are_errors() -> None:
    with pytest.raises(TextError, match="No document to score"):
        scored(constant(1.0), [])
    with pytest.raises(NumericsError, match="document 2 has no finite probability"):
        scored(constant(math.nan))
