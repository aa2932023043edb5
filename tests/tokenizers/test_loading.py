"""Tests that tokenizers are created from options, configs and directories."""

from pathlib import Path

import pytest

from fabella.config.data import BPE, Bytes, Pretrained, SentencePiece
from fabella.errors import ConfigError, TokenizerError
from fabella.tokenizers import loading, metadata
from tests.tokenizers.samples import corpus, trained


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("bytes", Bytes()),
        ("bpe", BPE()),
        ("bpe:300", BPE(vocab_size=300)),
        ("sentencepiece:8000", SentencePiece(vocab_size=8000)),
        ("folder/tokenizer.json", Pretrained(source="folder/tokenizer.json")),
        ("gpt2", Pretrained(source="gpt2")),
        ("bytes:256", Pretrained(source="bytes:256")),
    ],
)
def test_the_text_for_a_tokenizer_is_parsed(text: str, section: object) -> None:
    assert loading.parse(text) == section


@pytest.mark.parametrize("text", ["bpe:12", "bpe:many", "bpe:1e6", "bpe:-300", "bpe:2000000"])
def test_an_invalid_vocabulary_size_is_refused(text: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"Cannot parse the vocabulary size of '{text}'\. bpe .* from 257 to 1048576\. For example bpe:4096",
    ):
        loading.parse(text)


def test_only_trained_tokenizers_need_text() -> None:
    needed = [loading.needs_text(section) for section in (Bytes(), BPE(), SentencePiece(), Pretrained(source="x"))]
    assert needed == [False, True, True, False]


@pytest.mark.parametrize("section", [Bytes(), BPE(vocab_size=300), SentencePiece(vocab_size=300)])
def test_training_gives_the_configured_kind(section: Bytes | BPE | SentencePiece) -> None:
    assert loading.train(section, corpus()[:20]).kind == section.kind


def test_the_tokenizer_of_a_dataset_or_a_run_is_opened(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path / "tokenizer")
    assert loading.open_any(str(tmp_path)).fingerprint == trained("bpe").fingerprint
    assert loading.open_any(str(tmp_path / "tokenizer")).fingerprint == trained("bpe").fingerprint
    assert loading.open_any("bytes").kind == "bytes"


def test_an_untrained_tokenizer_cannot_be_opened() -> None:
    with pytest.raises(TokenizerError, match=r"Tokenizer bpe:300 is not trained yet\. Train it"):
        loading.open_any("bpe:300")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    metadata.write(tmp_path, metadata.TokenizerMetadata(kind="oracle", eos_token=""), {})
    with pytest.raises(TokenizerError, match=r"Unknown kind of tokenizer 'oracle' in .* Choose from: bytes, bpe"):
        loading.load(tmp_path)


def test_a_saved_tokenizer_without_its_file_is_refused(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    (tmp_path / metadata.JSON_FILE).unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a file"):
        loading.load(tmp_path)
