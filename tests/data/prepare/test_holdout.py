"""Tests that the split of a document by hash depends only on its text."""

from hypothesis import given
from hypothesis import strategies as st

from fabella.data.prepare.holdout import DIGEST_BYTES, document_hash, in_holdout

FRACTION = 0.1
DOCUMENTS = 20_000
# Five standard deviations of the share of 20,000 documents.
SHARE_TOLERANCE = 0.011


@given(st.text(st.characters(blacklist_categories=("Cs",))), st.floats(0, 1))
def test_equal_texts_are_in_the_same_split(text: str, fraction: float) -> None:
    assert document_hash(text) == document_hash(str(text.encode(), "utf-8"))
    assert in_holdout(document_hash(text), fraction) == in_holdout(document_hash(text), fraction)


def test_the_document_hash_is_fixed() -> None:
    """Datasets of an earlier version must have the same split: BLAKE2b with 16 bytes."""
    assert document_hash("Once upon a time").hex() == "041b76e5564c0ea1bdb7e4cb77fae791"
    assert len(document_hash("")) == DIGEST_BYTES


def test_the_share_is_about_the_fraction() -> None:
    held_out = sum(in_holdout(document_hash(f"story {number}"), FRACTION) for number in range(DOCUMENTS))
    assert abs(held_out / DOCUMENTS - FRACTION) < SHARE_TOLERANCE


@given(st.text("abc"), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_all_of_a_smaller_one(text: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert in_holdout(document_hash(text), smaller) <= in_holdout(document_hash(text), larger)


def test_fractions_near_0_and_1() -> None:
    digests = [document_hash(str(number)) for number in range(100)]
    assert not any(in_holdout(digest, 0.0) for digest in digests)
    assert all(in_holdout(digest, 1.0) for digest in digests)
