"""Tests that cached encoding returns the ids of the library, for any text and any size of the cache."""

import random
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer as Library

from fabella.tokenizers import pretoken_cache
from fabella.tokenizers.huggingface import HuggingFaceTokenizer
from fabella.tokenizers.pretoken_cache import GPT2_CHUNKS, SPACE, SPACE_CHUNKS, ChunkEncoder, PretokenCache
from fabella.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.tokenizers.samples import AWKWARD, corpus, random_text, texts, trained

Encode = Callable[[str], list[int]]


def library_of_bpe() -> Encode:
    """Return an encoder of the library only, without Fabella's chunks."""
    tokenizer = trained("bpe")
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    library = Library.from_str(tokenizer._text)  # pyright: ignore[reportPrivateUsage]
    library.encode_special_tokens = True
    return lambda text: library.encode(text, add_special_tokens=False).ids


def library_of_sentencepiece() -> Encode:
    tokenizer = trained("sentencepiece")
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer._library.encode  # pyright: ignore[reportPrivateUsage]


LIBRARIES = {"bpe": library_of_bpe(), "sentencepiece": library_of_sentencepiece()}
both_kinds = pytest.mark.parametrize("kind", LIBRARIES)


def assert_same_ids(kind: str, text: str) -> None:
    text = text.replace("▁", "") if kind == "sentencepiece" else text
    np.testing.assert_array_equal(trained(kind).encode(text), LIBRARIES[kind](text))


@both_kinds
@pytest.mark.fault("G4", cases=1000)
@settings(max_examples=1000)
@given(text=texts)
def test_ids_equal_those_of_the_library(kind: str, text: str) -> None:
    assert_same_ids(kind, text)


@both_kinds
@pytest.mark.fault("G4", cases=5000)
def test_ids_equal_those_of_the_library_on_all_planes(kind: str) -> None:
    source = random.Random(2)
    for _ in range(5000):
        assert_same_ids(kind, random_text(source, source.randrange(30)))


@both_kinds
def test_ids_equal_those_of_the_library_on_stories(kind: str) -> None:
    for text in [*corpus(), "\n\n".join(corpus()), *AWKWARD, "a" * 5000, "é字🐉b" * 1000]:
        assert_same_ids(kind, text)


def test_white_space_is_that_of_the_gpt2_pattern() -> None:
    """Every character that is white space in Python or in Unicode, next to letters, marks and other spaces."""
    spaces = [chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000]
    spaces = [c for c in spaces if c.isspace() or unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf")]
    assert len(spaces) > 100
    for character in spaces:
        assert_same_ids(
            "bpe", f"a{character}b {character}c  {character} d!{character}{character}!{character}\n{character}x"
        )


@pytest.mark.parametrize("pattern", [GPT2_CHUNKS, SPACE_CHUNKS])
@given(text=texts)
def test_the_joined_chunks_are_the_text(pattern: "re.Pattern[str]", text: str) -> None:
    assert "".join(pattern.findall(text)) == text


def test_a_gpt2_chunk_begins_with_its_white_space() -> None:
    assert GPT2_CHUNKS.findall("One  day,\n\nTom's dog ") == ["One", "  day,", "\n\nTom's", " dog", " "]


def test_information_separators_are_not_white_space() -> None:
    """U+001C to U+001F are white space to Python and not to the GPT-2 pattern."""
    assert not set("\x1c\x1d\x1e\x1f") & set(SPACE)
    assert GPT2_CHUNKS.findall("a\x1cb") == ["a\x1cb"]


def test_a_chunk_is_encoded_once() -> None:
    encoded_chunks: list[str] = []

    def encode(chunk: str) -> list[int]:
        encoded_chunks.append(chunk)
        return [len(chunk)]

    encoder = ChunkEncoder(GPT2_CHUNKS, encode)
    assert encoder.encode("to be or not to be").tolist() == [2, 3, 3, 4, 3, 3]
    assert encoded_chunks == ["to", " be", " or", " not", " to"]


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretoken_cache, "MAX_CACHED_CHUNKS", 10)
    memory = PretokenCache(lambda chunk: [len(chunk)])
    for number in range(100):
        assert memory[str(number)] == np.int32(len(str(number))).tobytes()
        assert len(memory) <= 10


def test_long_chunks_are_not_cached() -> None:
    memory = PretokenCache(lambda chunk: [1])
    assert memory["x" * 1000] == np.int32(1).tobytes()
    assert not memory


def test_ids_are_writable() -> None:
    """A read-only array makes torch warn."""
    assert trained("bpe").encode("once").flags.writeable
