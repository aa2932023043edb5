"""Tests that log-likelihoods of continuations equal known values for all contexts and batches."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fabella.errors import NumericsError
from fabella.evaluation.loglikelihood import Likelihood, loglikelihoods
from fabella.evaluation.scoring.predictions import Predictions
from fabella.models import IGNORE
from tests.generation.tiny_run import tokenizer

PAIRS = [("Tom had ", "a dog."), ("", "Zoë"), ("Once upon a time, ", "there was a dragon who ate."), ("all", "")]


class Uniform:
    """Predictor with equally likely ids, which records the number of targets, the largest batch and the inputs."""

    def __init__(self, nats: float = math.log(257)) -> None:
        self.nats, self.targets, self.largest = nats, 0, 0
        self.inputs: list[bytes] = []

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        self.targets += int((targets != IGNORE).sum())
        self.largest = max(self.largest, tokens.size)
        self.inputs += [bytes(row[(row < 256)].tolist()) for row in tokens]
        nats = np.where(targets == IGNORE, np.nan, self.nats).astype(np.float32)
        return Predictions(nats, np.ones_like(nats), targets % 2 == 0)


def likelihoods(predict: Uniform, *, context: int = 64, tokens: int = 256) -> list[Likelihood]:
    return loglikelihoods(predict, tokenizer(), PAIRS, context=context, tokens=tokens)


@pytest.mark.parametrize("context", [4, 7, 16, 64])
def test_a_uniform_model_gives_equal_scores_and_each_byte_is_a_target_once(context: int) -> None:
    predict = Uniform()
    result = likelihoods(predict, context=context)
    sizes = [len(text.encode()) for _, text in PAIRS]
    assert [likelihood.nats for likelihood in result] == pytest.approx([-size * math.log(257) for size in sizes])
    assert predict.targets == sum(sizes)


def test_an_empty_continuation_has_probability_1_and_is_greedy() -> None:
    assert likelihoods(Uniform())[3] == Likelihood(0.0, True)


def test_greedy_means_that_every_token_is_the_most_likely_one() -> None:
    even, with_odd_id = ("b", "bdf"), ("b", "bda")  # even ids are the most likely ones
    result = loglikelihoods(Uniform(), tokenizer(), [even, with_odd_id], context=64, tokens=64)
    assert [likelihood.greedy for likelihood in result] == [True, False]


def test_the_batch_size_is_bounded_and_does_not_change_results() -> None:
    small, large = Uniform(), Uniform()
    assert likelihoods(small, context=16, tokens=16) == likelihoods(large, context=16, tokens=4096)
    assert small.largest <= 16 < large.largest


def test_a_long_context_is_cut_at_the_start() -> None:
    predict = Uniform()
    loglikelihoods(predict, tokenizer(), [("x" * 100 + "abc", "def")], context=5, tokens=64)
    assert predict.inputs == [b"abcde"[-5:]]


def test_nan_is_an_error() -> None:
    with pytest.raises(NumericsError, match="has the log-likelihood nan"):
        loglikelihoods(Uniform(math.nan), tokenizer(), PAIRS, context=64, tokens=64)
