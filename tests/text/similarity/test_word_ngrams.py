"""Tests of the hashes of word n-grams: equal for equal runs of words, the same in every process."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fabella.text.similarity.word_ngrams import ngram_hashes, word_hashes

WORDS = st.lists(st.sampled_from(["fox", "owl", "the", "ran"]), max_size=12)


@given(WORDS, st.integers(1, 6))
def test_equal_runs_have_equal_hashes_and_others_do_not(words: list[str], n: int) -> None:
    hashes = ngram_hashes(word_hashes(" ".join(words)), n).tolist()
    size = min(n, len(words))
    runs = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)] if words else []
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs))
    assert len(set(zip(hashes, runs, strict=True))) == len(set(runs))


def test_case_and_punctuation_do_not_matter() -> None:
    np.testing.assert_array_equal(word_hashes("The Fox, ran!"), word_hashes("the fox ran"))


def test_a_chinese_character_is_a_word() -> None:
    assert len(word_hashes("从前有一只狐狸 fox")) == 8


def test_hashes_are_the_same_in_every_process() -> None:
    """Python's own hash of a string is another one in each process; a dataset may not depend on it."""
    assert word_hashes("fox").tolist() == [0x12E107141A5273B7]
    assert ngram_hashes(word_hashes("a fox ran"), 3).tolist() == [0xAD9679EF3D485065]
