"""Tests of the scores of predictors with known results: uniform, perfect, and the same text with other tokens."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.config.scoring import line, story, validation_rule
from fabella.data.batches import Batch
from fabella.engine.engine_torch import create_engine
from fabella.errors import NumericsError, TextError
from fabella.evaluation.scoring.batches import Document, held_out, of_texts
from fabella.evaluation.scoring.predictions import Predict, Predictions
from fabella.evaluation.scoring.predictions_torch import predictions
from fabella.evaluation.scoring.scores import Scores, score
from fabella.generation.generator import load
from fabella.generation.likelihood import measure
from fabella.models import IGNORE
from fabella.training.eval_loss import ValidationSplit
from tests.generation.fake_model import Config, Hashing
from tests.generation.tiny_run import make, tokenizer
from tests.training import tiny

TEXTS = ["Once upon a time there was a dog.", "Zoë saw a 🐉.", "The end."]
CONTEXT, EOS = 16, 255
# Float32 sums in different orders.
TOLERANCE = 1e-5


def scored(predict: Predict, texts: list[str] = TEXTS, *, context: int = CONTEXT) -> Scores:
    return score(predict, of_texts(texts, tokenizer()), story(context), vocab_size=256, eos_id=EOS)


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

    by_byte = score(predict_bytes, singles, story(8), vocab_size=5, eos_id=2)
    by_pair = score(predict_pairs, pairs, story(8), vocab_size=5, eos_id=2)
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


def test_the_story_rule_is_the_sum_of_decoding_token_by_token(tmp_path: Path) -> None:
    generator = load(make(tmp_path / "run"), compile_decoder=False)
    model = generator.model

    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        return predictions(model, tokens, targets)

    result = score(predict, of_texts(TEXTS, tokenizer()), story(64), vocab_size=256, eos_id=EOS)
    nats = 0.0
    with torch.inference_mode():
        for text in TEXTS:
            ids = [EOS, *text.encode(), EOS]
            state = model.init_state(1, len(ids))
            for token, target in pairwise(ids):
                logits, state = model.decode(torch.tensor([[token]]), state)
                nats -= float(logits.double().log_softmax(-1)[0, target])
    assert result.loss.value * result.tokens == pytest.approx(nats, rel=TOLERANCE)
    assert result.bits_per_byte.value * result.bytes == pytest.approx(nats / math.log(2), rel=TOLERANCE)
    assert result.rule == "story-64"


def test_the_line_rule_scores_what_a_training_scores(tmp_path: Path) -> None:
    config = tiny.run("data.validation.fraction=0.4", steps=2)
    dataset = tiny.prepared(tmp_path, config)
    engine = create_engine(config, "cpu")

    def predict(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = engine.losses(Batch(tokens, targets)).reshape(targets.shape)
        return Predictions(nats, np.ones_like(nats), nats > 0)

    for length in (8, 32):
        documents = held_out(dataset.validation, dataset.tokenizer, packed=True)
        result = score(predict, documents, line(length), vocab_size=256, eos_id=EOS)
        expected = ValidationSplit(engine, dataset, Packed(length=length, stride=length), 4).loss()
        assert (result.rule, result.tokens) == (expected.rule, expected.tokens) == (f"line-{length}", result.tokens)
        assert result.loss.value == pytest.approx(expected.loss, rel=TOLERANCE)
        assert result.bits_per_byte.value == pytest.approx(expected.bits_per_byte, rel=TOLERANCE)


def test_a_text_shorter_than_a_sequence_has_no_line_score() -> None:
    with pytest.raises(TextError, match="The text has 8 tokens; line-16 needs 17") as error:
        score(constant(1.0), of_texts(["The end"], tokenizer(), packed=True), line(16), vocab_size=256, eos_id=EOS)
    assert "--length 7" in str(error.value)
    assert score(
        constant(1.0), of_texts(["The end"], tokenizer(), packed=True), line(7), vocab_size=256, eos_id=EOS
    ).tokens


@pytest.mark.parametrize(
    ("sequences", "name"),
    [
        (Packed(length=256, stride=256), "line-256"),
        (Packed(length=256, stride=128), "line-256-by-128"),
        (Packed(length=256, stride=256, mask_documents=True), "line-256-masked"),
        (Padded(length=200), "cut-200"),
    ],
)
def test_a_training_names_its_rule(sequences: Packed | Padded, name: str) -> None:
    rule = validation_rule(sequences)
    assert rule.name == str(rule) == name
    assert str(sequences.length) in rule.describe()
