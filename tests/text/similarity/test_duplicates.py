"""Tests that equal and similar documents are found, whatever lies between them, and that others are kept."""

import builtins
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.data.prepare.holdout import document_hash
from fabella.errors import DataError
from fabella.text.similarity.duplicates import BATCH, EXACT, NEAR, DuplicateFinder, Duplicates
from tests.data.samples import words


def find(texts: list[str], similarity: float = 0.0) -> Duplicates:
    finder = DuplicateFinder(similarity)
    for text in texts:
        finder.add(text, document_hash(text))
    return finder.find()


def changed(text: str, count: int, seed: int = 0) -> str:
    """Return a text with ``count`` words at random places replaced."""
    parts, chosen = text.split(), random.Random(seed)
    for place in chosen.sample(range(len(parts)), count):
        parts[place] = f"word{place}"
    return " ".join(parts)


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_equal_documents_are_duplicates_of_the_first(letters: list[str]) -> None:
    found = find(letters)
    for number, letter in enumerate(letters):
        first = letters.index(letter)
        assert found.kinds[number] == (EXACT if first < number else 0)
        assert found.originals[number] == (first if first < number else -1)


LONG = [words(number, 200) for number in range(40)]


def test_documents_with_a_few_changed_words_are_near_duplicates() -> None:
    """Each changed word breaks five runs of five words: 4 of 200 words leave a similarity of about 0.82."""
    texts = [*LONG, *(changed(text, 3) for text in LONG[:10]), *LONG[:5], changed(LONG[20], 100)]
    found = find(texts, 0.8)
    assert found.kinds.tolist() == [0] * 40 + [NEAR] * 10 + [EXACT] * 5 + [0]
    assert found.originals.tolist() == [-1] * 40 + list(range(10)) + list(range(5)) + [-1]


def test_a_chain_of_similar_documents_is_left_out_up_to_its_first() -> None:
    chain = [LONG[0]]
    for step in range(6):
        chain.append(changed(chain[-1], 2, seed=step))
    found = find([*LONG[1:5], *chain], 0.85)
    assert found.kinds.tolist() == [0] * 5 + [NEAR] * 6
    assert set(found.originals[5:].tolist()) == {4}


def test_many_documents_like_one_are_found_across_batches() -> None:
    texts = [changed(LONG[0], 2, seed=number) for number in range(BATCH + 20)]
    found = find([LONG[0], *texts], 0.8)
    assert found.count(NEAR) + found.count(EXACT) == len(texts)


def test_documents_without_words_are_similar_to_equal_ones_only() -> None:
    found = find(["!!!", "???", "!!!", "...", "", "fox", "Fox!"], 0.8)
    assert found.kinds.tolist() == [0, 0, EXACT, 0, 0, 0, NEAR]


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_which_documents_are_left_out_does_not_depend_on_unrelated_ones(chosen: random.Random) -> None:
    family = [LONG[0], changed(LONG[0], 3), changed(LONG[1], 3, 5), LONG[1]]
    texts = [*family, *chosen.sample(LONG[2:], 12)]
    kinds = find(texts, 0.8).kinds
    assert kinds[:4].tolist() == [0, NEAR, 0, NEAR]
    assert not kinds[4:].any()


def test_no_documents_have_no_duplicates() -> None:
    assert len(find([], 0.8).kinds) == 0
    assert find(["one"], 0.8).originals.tolist() == [-1]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_rensa(name: str, *others: Any) -> Any:
        if name == "rensa":
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", without_rensa)
    with pytest.raises(DataError, match=r"needs rensa\. pip install 'fabella\[duplicates\]'"):
        DuplicateFinder(0.8)
    assert find(["a", "a"]).count(EXACT) == 1


def test_memory_is_bounded_per_document() -> None:
    """The signatures are in a file: memory has hashes and, while comparing, a few numbers per document."""
    finder = DuplicateFinder(0.8)
    for number in range(3 * BATCH):
        finder.add(f"fox {number} ran", document_hash(str(number)))
        assert len(finder._shingles) < BATCH  # pyright: ignore[reportPrivateUsage]
    assert np.all(finder.find().kinds == 0)
