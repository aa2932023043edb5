"""Tests that cloze questions come from documents, and that an answer is correct if the model prefers its ending."""

import numpy as np
from numpy.typing import NDArray

from fabella.evaluation.cloze import CHOICES, questions, run_cloze
from fabella.evaluation.scoring.predictions import Predictions
from fabella.models import IGNORE
from tests.generation.tiny_run import tokenizer

STORIES = [f"Tom had {n} dogs. They ran. They ate. Then all {n} slept." for n in range(8)]


def predictions(nats: NDArray[np.float32]) -> Predictions:
    return Predictions(nats, np.ones_like(nats), np.ones(nats.shape, np.bool_))


class KnownEndings:
    """Predictor that finds only the given endings likely, and records the endings it scored."""

    def __init__(self, endings: set[str]) -> None:
        self.endings, self.scored = endings, []

    def __call__(self, tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Predictions:
        nats = np.zeros(targets.shape, np.float32)
        for row, labels in enumerate(targets):
            ending = bytes(labels[labels != IGNORE][:-1].tolist()).decode()
            self.scored.append(ending)
            nats[row] = 0.1 if ending in self.endings else 1.0
        return predictions(nats)


def test_a_question_has_its_own_ending_first_and_four_different_ones() -> None:
    question = questions(STORIES)
    assert len(question) == len(STORIES)
    assert question[0].story == "Tom had 0 dogs. They ran. They ate."
    assert question[0].endings == tuple(f" Then all {n} slept." for n in range(5))
    assert all(len(set(question.endings)) == CHOICES for question in question)


def test_too_few_or_too_short_documents_make_no_question() -> None:
    assert questions(STORIES[:4]) == []
    assert questions(["Tom ran. He fell."] * 9) == []


def test_accuracy_is_1_for_the_true_endings_and_0_for_the_others() -> None:
    question = questions(STORIES)[:3]
    true, wrong = {question.endings[0] for question in question[:1]}, set(question[0].endings[1:])
    assert run_cloze(KnownEndings(true), tokenizer(), question[:1], context=128).accuracy.value == 1.0
    assert run_cloze(KnownEndings(wrong), tokenizer(), question[:1], context=128).accuracy.value == 0.0


def test_equally_likely_endings_are_not_correct() -> None:
    result = run_cloze(KnownEndings(set()), tokenizer(), questions(STORIES), context=128)
    assert (result.accuracy.value, result.chance, result.questions) == (0.0, 0.2, 8)


def test_a_short_context_keeps_the_whole_ending_or_skips_the_question() -> None:
    predict = KnownEndings(set())
    assert run_cloze(predict, tokenizer(), questions(STORIES)[:1], context=40).questions == 1
    assert predict.scored == list(questions(STORIES)[0].endings)
    assert run_cloze(predict, tokenizer(), questions(STORIES)[:1], context=30).questions == 0
