"""Tests of SentencePiece tokenizers, trained by Fabella and imported."""

import io
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

from fabella.config.data import Pretrained, SentencePiece
from fabella.errors import TokenizerError
from fabella.tokenizers import pretrained, sentencepiece
from fabella.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.tokenizers.samples import corpus, trained


def model(**settings: Any) -> bytes:
    """Train a model with the defaults of SentencePiece: a space before the text, no byte fallback."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[0].split("\n") * 3), model_writer=written, minloglevel=3,
        **{"vocab_size": 120, "model_type": "bpe", **settings},
    )  # fmt: skip
    return written.getvalue()


@pytest.mark.parametrize("vocab_size", [300, 400, 700])
def test_the_vocabulary_has_the_requested_size(vocab_size: int) -> None:
    text = ["a cat sat on a mat"] if vocab_size == 300 else corpus()
    assert sentencepiece.train(SentencePiece(vocab_size=vocab_size), text).vocab_size <= vocab_size
    assert sentencepiece.train(SentencePiece(vocab_size=vocab_size), corpus()).vocab_size == vocab_size


def test_a_small_text_gives_fewer_pieces() -> None:
    assert sentencepiece.train(SentencePiece(vocab_size=4096), ["once upon a time"]).vocab_size < 300


def test_training_twice_gives_the_same() -> None:
    once, twice = (sentencepiece.train(SentencePiece(vocab_size=500), corpus()) for _ in range(2))
    assert once.fingerprint == twice.fingerprint


def test_more_characters_than_pieces_fall_back_on_bytes() -> None:
    text = "".join(map(chr, range(0x4E00, 0x5200)))
    tokenizer = sentencepiece.train(SentencePiece(vocab_size=400), [text])
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


def test_lines_longer_than_the_trainer_accepts_are_split() -> None:
    tokenizer = sentencepiece.train(SentencePiece(vocab_size=300), ["tell me a tale " * 1000])
    assert len(tokenizer.encode(" tale")) == 1


def test_training_without_text_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="Cannot train a SentencePiece tokenizer without text"):
        sentencepiece.train(SentencePiece(), ["", "\n\n"])


def test_the_space_mark_is_encoded_as_bytes() -> None:
    tokenizer = trained("sentencepiece")
    assert [tokenizer.token_bytes(number) for number in tokenizer.encode("▁")] == [b"\xe2", b"\x96", b"\x81"]


def test_an_imported_model_keeps_the_space_it_adds_before_a_text() -> None:
    tokenizer = pretrained.from_model(model(), "<|endoftext|>")
    assert tokenizer.kind == "pretrained"
    assert tokenizer.eos_id == 2
    assert tokenizer.decode(tokenizer.encode("a day").tolist()) == " a day"


def test_unknown_text_of_an_imported_model_is_a_replacement_character() -> None:
    tokenizer = pretrained.from_model(model(add_dummy_prefix=False), "")
    assert tokenizer.decode(tokenizer.encode("a漢").tolist()) == "a\ufffd"


def test_an_eos_token_in_a_text_is_encoded_as_bytes() -> None:
    data = model(user_defined_symbols=["<|endoftext|>"], byte_fallback=True, vocab_size=400, hard_vocab_limit=False)
    tokenizer = pretrained.from_model(data, "<|endoftext|>")
    ids = tokenizer.encode("one <|endoftext|> two").tolist()
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == " one <|endoftext|> two"


def test_an_eos_token_that_text_can_contain_needs_bytes() -> None:
    with pytest.raises(TokenizerError, match=r"Text can contain the EOS token '<\|endoftext\|>' of this model"):
        SentencePieceTokenizer("pretrained", model(user_defined_symbols=["<|endoftext|>"]), "<|endoftext|>")


def test_an_unknown_piece_cannot_be_eos() -> None:
    with pytest.raises(
        TokenizerError, match=r"The SentencePiece model has no piece '<end>'\. .*tokenizer\.eos_token=</s>"
    ):
        SentencePieceTokenizer("pretrained", model(), "<end>")


@pytest.mark.parametrize("cut", [0, 10, 500])
def test_a_damaged_model_is_refused(cut: int, tmp_path: Path) -> None:
    (tmp_path / "cut.model").write_bytes(model()[:cut] + b"\xff" * 20)
    with pytest.raises(TokenizerError, match="Not a SentencePiece model, or a damaged one"):
        pretrained.load(Pretrained(source=str(tmp_path / "cut.model")))
