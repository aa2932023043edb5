"""Questions are made of real stories, and only a model that knows the ending answers them."""

import numpy as np
from numpy.typing import NDArray

from fabella.evaluation.cloze import CHOICES, questions, run_cloze
from fabella.evaluation.predictions import Predictions
from fabella.models import IGNORE
from tests.generation.tiny_run import tokenizer

STORIES = [f"Tom had {n} dogs. They ran. They ate. Then all {n} slept." for n in range(8)]


def predictions(nats: NDArray[np.float32]) -> Predictions:
    return Predictions(nats, np.ones_like(nats), np.ones(nats.shape, np.bool_))


class Knowing:
    """Finds likely only the endings it was told are right; remembers what it was shown."""

    def __init__(self, endings: set[str]) -> None:
        self.endings, self.shown = endings, []

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, wanted in enumerate(targets):
            ending = bytes(wanted[wanted != IGNORE][:-1].tolist()).decode()
            self.shown.append(ending)
            nats[row] = 0.1 if ending in self.endings else 1.0
        return predictions(nats)


def test_a_question_has_its_own_ending_first_and_four_different_ones() -> None:
    asked = questions(STORIES)
    assert len(asked) == len(STORIES)
    assert asked[0].story == "Tom had 0 dogs. They ran. They ate."
    assert asked[0].endings == tuple(f" Then all {n} slept." for n in range(5))
    assert all(len(set(each.endings)) == CHOICES for each in asked)


def test_too_few_or_too_short_stories_make_no_question() -> None:
    assert questions(STORIES[:4]) == []
    assert questions(["Tom ran. He fell."] * 9) == []


def test_who_knows_the_endings_is_always_right_and_who_knows_the_others_never() -> None:
    asked = questions(STORIES)[:3]
    true, wrong = {each.endings[0] for each in asked[:1]}, set(asked[0].endings[1:])
    assert run_cloze(Knowing(true), tokenizer(), asked[:1], context=128).accuracy.value == 1.0
    assert run_cloze(Knowing(wrong), tokenizer(), asked[:1], context=128).accuracy.value == 0.0


def test_who_cannot_tell_them_apart_is_not_right() -> None:
    found = run_cloze(Knowing(set()), tokenizer(), questions(STORIES), context=128)
    assert (found.accuracy.value, found.chance, found.questions) == (0.0, 0.2, 8)


def test_the_ending_is_shown_whole_in_a_short_context_and_left_out_where_it_does_not_fit() -> None:
    knowing = Knowing(set())
    assert run_cloze(knowing, tokenizer(), questions(STORIES)[:1], context=40).questions == 1
    assert knowing.shown == list(questions(STORIES)[0].endings)
    assert run_cloze(knowing, tokenizer(), questions(STORIES)[:1], context=30).questions == 0
