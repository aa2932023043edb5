"""Tests of the training of byte-level BPE."""

import pytest

from fabella.config.data import BPE
from fabella.tokenizers import bpe
from tests.tokenizers.samples import corpus, trained


@pytest.mark.parametrize("vocab_size", [257, 300, 700])
def test_the_vocabulary_has_the_requested_size(vocab_size: int) -> None:
    assert bpe.train(BPE(vocab_size=vocab_size), corpus()).vocab_size == vocab_size


def test_a_small_text_gives_fewer_merges() -> None:
    tokenizer = bpe.train(BPE(vocab_size=4096), ["once upon a time"])
    assert 257 < tokenizer.vocab_size < 300


def test_without_text_the_ids_are_bytes_and_eos() -> None:
    tokenizer = bpe.train(BPE(vocab_size=300), [])
    assert tokenizer.vocab_size == 257
    assert tokenizer.decode(tokenizer.encode("é漢").tolist()) == "é漢"


def test_training_twice_gives_the_same() -> None:
    once, twice = (bpe.train(BPE(vocab_size=500), corpus()) for _ in range(2))
    assert once.fingerprint == twice.fingerprint


def test_more_merges_give_fewer_tokens() -> None:
    text = corpus()[0]
    assert len(trained("bpe", 700).encode(text)) < len(trained("bpe", 400).encode(text)) < len(text.encode())


def test_words_are_not_merged_with_the_space_after_them() -> None:
    tokenizer = trained("bpe")
    pieces = {tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size)}
    assert not [piece for piece in pieces if piece.rstrip(b" ") not in (b"", piece)]


def test_special_tokens_in_the_training_text_train_only_plain_tokens() -> None:
    tokenizer = bpe.train(BPE(vocab_size=400), ["<|endoftext|> and <|endoftext|>"] * 50)
    assert tokenizer.eos_id not in tokenizer.encode("<|endoftext|>")


def test_a_long_document_is_split_into_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "MAX_SLICE", 100)
    tokenizer = bpe.train(BPE(vocab_size=300), ["tell me a tale " * 100])
    assert tokenizer.decode(tokenizer.encode("tale").tolist()) == "tale"
    assert len(tokenizer.encode(" tale")) == 1
