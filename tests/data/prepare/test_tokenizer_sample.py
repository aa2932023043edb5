"""Tests that a tokenizer is trained on all text, or on a sample of bounded size."""

from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import SplitDocument
from fabella.data.prepare.tokenizer_sample import ByteBudgetSample, sample_bytes


def split(texts: list[str]) -> list[SplitDocument]:
    return [SplitDocument(text, document_hash(text), held_out=False) for text in texts]


TEXTS = [f"story number {number}" for number in range(1000)]
SIZE = sum(len(text) for text in TEXTS)


def test_a_small_text_is_sampled_completely() -> None:
    sample = sample_bytes(split(TEXTS))
    assert list(sample.texts()) == TEXTS
    assert sample.message() == "the tokenizer was trained on all of the training text"


def test_held_out_text_is_never_sampled() -> None:
    documents = [
        SplitDocument(text, document_hash(text), held_out=number % 3 == 0) for number, text in enumerate(TEXTS)
    ]
    assert list(sample_bytes(documents).texts()) == [text for number, text in enumerate(TEXTS) if number % 3]


def test_a_large_text_is_sampled_evenly_in_order() -> None:
    sample = sample_bytes(split(TEXTS), max_bytes=SIZE // 3)
    sampled = list(sample.texts())
    assert SIZE // 8 < sample.sampled_bytes <= SIZE // 3
    assert sampled == [text for text in TEXTS if text in set(sampled)]
    positions = [TEXTS.index(text) for text in sampled]
    assert 400 < sum(positions) / len(positions) < 600, "from the whole text, not from its beginning"


def test_the_sample_never_exceeds_its_budget() -> None:
    sample = ByteBudgetSample(max_bytes=1000)
    for document in split(TEXTS):
        sample.add(document)
        assert sample.sampled_bytes <= 1000


def test_the_sample_is_the_same_at_every_run() -> None:
    first, second = (sample_bytes(split(TEXTS), max_bytes=5000) for _ in range(2))
    assert list(first.texts()) == list(second.texts())


def test_the_message_has_the_sampled_bytes() -> None:
    sample = sample_bytes(split(TEXTS * 100), max_bytes=10**6)
    sampled, read = sample.sampled_bytes / 1e6, sample.read_bytes / 1e6
    message = rf"the tokenizer was trained on {sampled:.1f} of {read:.1f} MB of the training text"
    assert sample.message().startswith(message)


def test_one_document_larger_than_the_budget_is_sampled() -> None:
    assert list(sample_bytes(split(["x" * 100]), max_bytes=10).texts()) == ["x" * 100]
