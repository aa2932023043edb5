"""Laws of the storybook's questions: known truth, one difference, and no dependence on how many are asked."""

import re
from collections.abc import Callable

import pytest

from fabella.evaluation.exam.story_items import SEED, ExamItem, entities, last_words, word_use
from fabella.text.storybook.generator import library, stories, stories_with_words

NAMES = {person.name for world in library().worlds for people in world.people for person in people}
TASKS = pytest.mark.parametrize("make", [last_words, entities, word_use])


def told() -> set[str]:
    return set(stories(1500, seed=SEED))


@TASKS
def test_the_right_choice_continues_a_story_and_the_wrong_ones_do_not(make: Callable[[int], list[ExamItem]]) -> None:
    texts = told()
    for item in make(30):
        right, *wrong = item.choices
        assert any(text.startswith(item.before + right) for text in texts)
        assert wrong
        assert not any(text.startswith(item.before + choice) for text in texts for choice in wrong)
        assert len({choice[: len(choice) - len(choice.lstrip())] for choice in item.choices}) == 1, "equal spaces"


@TASKS
def test_questions_do_not_depend_on_their_number(make: Callable[[int], list[ExamItem]]) -> None:
    assert make(40)[:10] == make(10)
    assert len({item.before for item in make(40)}) > 30


def test_the_last_word_was_named_before_and_the_others_were_not() -> None:
    for item in last_words(60):
        right, *wrong = (choice.strip() for choice in item.choices)
        assert re.search(rf"\b{right}\b", item.before)
        assert len(wrong) == 3
        assert not any(re.search(rf"\b{choice}\b", item.before) for choice in wrong)


def test_the_right_name_was_named_before_and_the_wrong_one_was_not() -> None:
    for item in entities(60):
        names = [re.match(r"\w+", choice.strip()) for choice in item.choices]
        right, wrong = (match.group() for match in names if match)
        assert {right, wrong} <= NAMES
        assert re.search(rf"\b{right}\b", item.before)
        assert not re.search(rf"\b{wrong}\b", item.before)
        assert item.choices[0].strip()[len(right) :] == item.choices[1].strip()[len(wrong) :]


def test_a_wrong_sentence_has_the_same_words_in_another_order() -> None:
    for item in word_use(60):
        right, wrong = (choice.split() for choice in item.choices)
        assert sorted(right) == sorted(wrong)
        assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 2


def test_stories_with_their_words_are_the_stories() -> None:
    both = list(stories_with_words(20, seed=3, start=5))
    assert [text for text, _ in both] == list(stories(20, seed=3, start=5))
    assert all(words["Hero"] in text for text, words in both)
