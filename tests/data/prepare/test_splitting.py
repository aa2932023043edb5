"""Tests of the train/validation split rules."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.prepare import splitting
from fabella.data.prepare.holdout import document_hash, in_holdout
from fabella.data.prepare.splitting import HashSplit, SmallTextSplit, SourceSplit, SplitRule, holdout_rule
from fabella.errors import DataError

fractions = st.floats(0.001, 0.9)
documents = st.lists(st.text("abc ", min_size=1, max_size=30), min_size=2, max_size=40)


def assigned(rule: SplitRule, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the training and the validation texts."""
    every = [part for text in texts for part in rule.assign(text, document_hash(text))]
    assert all(part.digest == document_hash(part.text) for part in every)
    return [part.text for part in every if not part.held_out], [part.text for part in every if part.held_out]


def megabyte(number: int) -> str:
    return f"{number} " * 2**18


@given(texts=documents, fraction=fractions)
def test_both_splits_have_text_and_nothing_is_lost(texts: list[str], fraction: float) -> None:
    if sum(map(len, set(texts))) < 2 or max(map(len, texts)) < 2 or (len(set(texts)) == 1 and len(texts) > 2):
        return
    rule = holdout_rule(texts, fraction)
    train, held_out = assigned(rule, texts)
    assert train
    assert held_out
    assert sum(map(len, train + held_out)) == sum(map(len, texts))
    if not any(text not in texts for text in held_out):  # no document is cut
        assert not set(train) & set(held_out)
        assert sorted(train + held_out) == sorted(texts)


def test_a_large_text_is_split_by_hash_only() -> None:
    texts = [f"story {number} " * 100 for number in range(1000)]
    rule = holdout_rule(texts, 0.1)
    assert isinstance(rule, HashSplit)
    _, held_out = assigned(rule, texts)
    assert held_out == [text for text in texts if in_holdout(document_hash(text), 0.1)]
    assert list(rule.messages()) == ["held out for validation: about 10 % of the documents, by the hash of their text"]


def test_no_more_is_read_than_needed() -> None:
    read: list[int] = []

    def many() -> Iterable[str]:
        for number in range(100_000):
            read.append(number)
            yield f"story {number} " * 100

    assert isinstance(holdout_rule(many(), 0.1), HashSplit)
    assert len(read) < 2000


def test_a_huge_text_is_not_read_completely_for_the_split_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MAX_INSPECTED_BYTES", 10_000)
    texts = [f"story {number} " for number in range(100_000)]
    assert isinstance(holdout_rule(iter(texts), 0.001), HashSplit)


def test_a_small_text_holds_out_its_smallest_hashes() -> None:
    texts = [f"story {number}" for number in range(50)]
    rule = holdout_rule(texts, 0.01)
    assert isinstance(rule, SmallTextSplit)
    _, held_out = assigned(rule, texts)
    assert 4 <= len(held_out) <= 6, "a tenth of the text, where that is less than 64 KiB"
    assert {document_hash(text) for text in held_out} == set(sorted(map(document_hash, texts))[: len(held_out)])
    (sentence,) = rule.messages()
    assert f"{len(held_out)} of 50 distinct documents" in sentence


def test_one_of_two_documents_is_held_out_for_a_large_fraction() -> None:
    for fraction in (0.5, 0.99):
        train, held_out = assigned(holdout_rule(["one", "two"], fraction), ["one", "two"])
        assert (len(train), len(held_out)) == (1, 1)


def test_few_long_documents_hold_out_their_ends() -> None:
    texts = [letter * size for letter, size in (("a", 100_000), ("b", 120_000), ("c", 110_000))]
    rule = holdout_rule(texts, 0.01)
    train, held_out = assigned(rule, texts)
    assert [text[0] for text in held_out] == ["a", "b", "c"]
    assert [len(part) for part in held_out] == [10_000, 12_000, 11_000]
    assert [a + b for a, b in zip(train, held_out, strict=True)] == texts
    assert list(rule.messages()) == [
        "held out for validation: the last 10 % of the 3 longest documents",
        "the held-out text repeats earlier text: its loss will be too low; give other text with --validation",
    ]


@given(
    exponents=st.lists(st.integers(5, 19), min_size=1, max_size=40),
    stories=st.integers(0, 60),
    fraction=st.sampled_from([0.001, 0.01, 0.05, 0.2]),
)
def test_any_distribution_of_sizes_is_split_by_documents_and_by_bytes(
    exponents: list[int], stories: int, fraction: float
) -> None:
    """One giant, few giants, powers of two: no more than a fifth of the documents or of the bytes is held out."""
    sizes = [2**exponent for exponent in exponents] + [900] * stories
    texts = [f"{number}," * (size // (len(str(number)) + 1)) for number, size in enumerate(sizes)]
    rule = holdout_rule(texts, fraction)
    train, held_out = assigned(rule, texts)
    complete = [text for text in held_out if text in texts]
    assert len(complete) <= max(1, 0.2 * len(texts))
    if len(texts) > 20:
        total = sum(map(len, texts))
        assert 0 < sum(map(len, held_out)) <= 0.25 * total
    assert train


def test_one_book_and_forty_stories_are_both_in_both_splits() -> None:
    texts = ["A long book. " * 30_000, *(f"A story of number {number}. " * 40 for number in range(40))]
    train, held_out = assigned(holdout_rule(texts, 0.01), texts)
    stories = [text for text in held_out if text.startswith("A story")]
    books = [text for text in held_out if text.startswith("A long book.")]
    assert 2 <= len(stories) <= 8
    assert len(books) == 1
    assert len(train) + len(stories) == len(texts)


def test_very_long_documents_give_their_ends_in_a_large_text() -> None:
    texts = ["A long book. " * 70_000, *(f"story {number} " * 100 for number in range(5000))]
    rule = holdout_rule(texts, 0.05)
    assert isinstance(rule, HashSplit)
    train, held_out = assigned(rule, texts)
    books = [text for text in held_out if "book" in text]
    assert [len(book) for book in books] == [pytest.approx(0.05 * len(texts[0]), rel=0.3)]
    assert "and the last 5 % of those longer than 262,144 characters" in next(iter(rule.messages()))
    assert sum(map(len, train + held_out)) == sum(map(len, texts))


def test_a_document_is_cut_where_a_paragraph_begins() -> None:
    text = "\n\n".join(f"Paragraph {number} of the book." for number in range(2000))
    (train,), (held_out,) = assigned(holdout_rule([text], 0.1), [text])
    assert held_out.startswith("Paragraph ")
    assert train.endswith("\n\n")


def test_equal_documents_alone_are_refused() -> None:
    with pytest.raises(DataError, match="All 40 documents are equal, so nothing can be held out"):
        holdout_rule(["old pond, still water"] * 40, 0.1)


def test_at_least_one_document_is_not_held_out() -> None:
    texts = [f"story {number}" for number in range(20)]
    train, _ = assigned(holdout_rule(texts, 0.999), texts)
    assert len(train) == 1


@given(text=st.text(st.characters(exclude_categories=("Cs",)), min_size=2, max_size=500), fraction=fractions)
def test_the_end_of_a_single_document_is_held_out(text: str, fraction: float) -> None:
    rule = holdout_rule([text, text], fraction)
    assert isinstance(rule, SmallTextSplit)
    (train,), (held_out,) = assigned(rule, [text])
    assert train + held_out == text
    assert train
    assert held_out


@pytest.mark.parametrize(("length", "held"), [(100, 10), (10_000, 1000), (10**6, 65_536), (10**7, 100_000)])
def test_the_share_of_a_single_document_that_is_held_out(length: int, held: int) -> None:
    _, (held_out,) = assigned(holdout_rule(["x" * length], 0.01), ["x" * length])
    assert len(held_out) == held


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "a"]])
def test_one_character_is_not_enough(texts: list[str]) -> None:
    with pytest.raises(DataError, match="needs at least two characters"):
        holdout_rule(texts, 0.1)


def test_a_separate_validation_source_is_used() -> None:
    rule = SourceSplit([document_hash("b"), document_hash("x"), document_hash("b")], "valid.txt")
    assert assigned(rule, ["a", "b", "c", "b"]) == (["a", "c"], [])
    assert list(rule.messages()) == ["validation source: valid.txt"]


def test_a_validation_source_without_overlap_drops_nothing() -> None:
    rule = SourceSplit([], "valid.txt")
    assert assigned(rule, ["a", "b"]) == (["a", "b"], [])
    assert list(rule.messages()) == ["validation source: valid.txt"]
