"""Log-likelihoods of continuations: known answers, whatever the windows and the batch."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fabella.errors import NumericsError
from fabella.evaluation.loglikelihood import Likelihood, loglikelihoods
from fabella.evaluation.predictions import Predictions
from fabella.models import IGNORE
from tests.generation.tiny_run import tokenizer

ASKED = [("Tom had ", "a dog."), ("", "Zoë"), ("Once upon a time, ", "there was a dragon who ate."), ("all", "")]


class Uniform:
    """Every id as likely as any other; counts how often each target was asked for, and keeps the widest batch."""

    def __init__(self, nats: float = math.log(257)) -> None:
        self.nats, self.asked, self.widest = nats, 0, 0
        self.read: list[bytes] = []

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        self.asked += int((targets != IGNORE).sum())
        self.widest = max(self.widest, tokens.size)
        self.read += [bytes(row[(row < 256)].tolist()) for row in tokens]
        nats = np.where(targets == IGNORE, np.nan, self.nats).astype(np.float32)
        return Predictions(nats, np.ones_like(nats), targets % 2 == 0)


def asked(predict: Uniform, *, context: int = 64, tokens: int = 256) -> list[Likelihood]:
    return loglikelihoods(predict, tokenizer(), ASKED, context=context, tokens=tokens)


@pytest.mark.parametrize("context", [4, 7, 16, 64])
def test_a_uniform_model_finds_each_byte_equally_likely_and_each_is_asked_once(context: int) -> None:
    predict = Uniform()
    found = asked(predict, context=context)
    sizes = [len(text.encode()) for _, text in ASKED]
    assert [one.nats for one in found] == pytest.approx([-size * math.log(257) for size in sizes])
    assert predict.asked == sum(sizes)


def test_nothing_is_certain_and_what_would_be_said_anyway() -> None:
    assert asked(Uniform())[3] == Likelihood(0.0, True)


def test_greedy_is_what_is_right_in_every_token() -> None:
    even, odd = ("b", "bdf"), ("b", "bda")  # even ids are "right"
    found = loglikelihoods(Uniform(), tokenizer(), [even, odd], context=64, tokens=64)
    assert [one.greedy for one in found] == [True, False]


def test_batches_stay_within_their_bound_and_change_nothing() -> None:
    small, large = Uniform(), Uniform()
    assert asked(small, context=16, tokens=16) == asked(large, context=16, tokens=4096)
    assert small.widest <= 16 < large.widest


def test_of_a_long_text_before_the_last_part_is_read() -> None:
    predict = Uniform()
    loglikelihoods(predict, tokenizer(), [("x" * 100 + "abc", "def")], context=5, tokens=64)
    assert predict.read == [b"abcde"[-5:]]


def test_numbers_that_are_none_are_an_error_and_no_score() -> None:
    with pytest.raises(NumericsError, match="has the log-likelihood nan"):
        loglikelihoods(Uniform(math.nan), tokenizer(), ASKED, context=64, tokens=64)
