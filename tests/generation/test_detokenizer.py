"""Tests of the incremental detokenizer and of stop strings."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fabella.config.data import BPE, Bytes, SentencePiece
from fabella.errors import UsageError
from fabella.generation.detokenizer import IncrementalDetokenizer, StopStrings
from fabella.tokenizers.loading import train
from fabella.tokenizers.tokenizer import Tokenizer

TEXT = "Once upon a time there was a naïve 🐉 who said “hello” привет, 世界! 👩👩👧 " * 20
# One byte of every kind in UTF-8: ASCII, three ranges of continuation bytes, every kind of lead byte, an invalid byte.
KINDS_OF_BYTES = bytes.fromhex("41 80 90 a0 c2 e0 e1 ed f0 f1 f4 ff")


class ByteTokenizer:
    """Smallest tokenizer that the detokenizer accepts."""

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


def streamed(tokenizer: Tokenizer | ByteTokenizer, ids: list[int]) -> tuple[str, int]:
    """Return the joined pieces and the maximum number of pending bytes."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces, pending = [], 0
    for token in ids:
        pieces.append(detokenizer.push(token))
        pending = max(pending, len(detokenizer.pending))
    return "".join([*pieces, detokenizer.end()]), pending


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    sections = {"bytes": Bytes(), "bpe": BPE(vocab_size=400), "sentencepiece": SentencePiece(vocab_size=400)}
    return {name: train(section, [TEXT]) for name, section in sections.items()}


def random_ids(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return random ids, including EOS."""
    return random.integers(0, tokenizer.vocab_size, size=random.integers(0, 40))


def single_bytes(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return ids of single bytes, most of them parts of characters."""
    ids = [token for token in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(token)) == 1]
    return random.choice(ids, size=random.integers(0, 40))


def torn_text(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the ids of real text without some of them, so that characters are incomplete."""
    ids = tokenizer.encode(TEXT[random.integers(0, 60) :][:40])
    return ids[random.random(len(ids)) < 0.8].astype(np.int64)


@pytest.mark.fault("G2", cases=20_000)
def test_the_joined_pieces_of_any_ids_equal_the_decoded_text(tokenizers: dict[str, Tokenizer]) -> None:
    random = np.random.default_rng(2)
    makers: list[Callable[[np.random.Generator, Tokenizer], NDArray[np.int64]]] = [random_ids, single_bytes, torn_text]
    torn = most_pending = 0
    for case in range(20_000):
        tokenizer = list(tokenizers.values())[case % 3]
        ids = makers[case // 3 % 3](random, tokenizer).tolist()
        text, pending = streamed(tokenizer, ids)
        assert text == tokenizer.decode(ids), ids
        most_pending = max(most_pending, pending)
        torn += "\N{REPLACEMENT CHARACTER}" in text
    assert most_pending == 3, "a character of four bytes waits for its last byte, and nothing waits longer"
    assert torn > 5_000, "most cases have invalid UTF-8"


def test_invalid_bytes_are_replaced_as_python_replaces_them() -> None:
    """All sequences of up to four kinds of bytes: no character of UTF-8 is longer."""
    tokenizer = ByteTokenizer()
    for length in range(5):
        for sequence in itertools.product(KINDS_OF_BYTES, repeat=length):
            text, pending = streamed(tokenizer, list(sequence))
            assert text == bytes(sequence).decode("utf-8", "replace")
            assert pending <= 3


@given(text=st.text(), data=st.data())
def test_text_split_at_any_bytes_is_unchanged(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    parts = [raw[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(raw)])]

    class Parts:
        def token_bytes(self, token: int) -> bytes:
            return parts[token]

    assert streamed(Parts(), list(range(len(parts))))[0] == text  # type: ignore[arg-type]


def test_a_character_is_held_back_until_it_is_complete() -> None:
    detokenizer = IncrementalDetokenizer(ByteTokenizer())
    assert [detokenizer.push(byte) for byte in "é🐉".encode()] == ["", "é", "", "", "", "🐉"]


def test_the_detokenizer_is_empty_after_its_end() -> None:
    detokenizer = IncrementalDetokenizer(ByteTokenizer())
    assert (detokenizer.push(0xF0), detokenizer.end()) == ("", "\N{REPLACEMENT CHARACTER}")
    assert (detokenizer.push(0x61), detokenizer.end()) == ("a", "")


# ---------------------------------------------------------------- stop strings


def cut_by_definition(text: str, stops: list[str]) -> tuple[str, str]:
    """Return the text before the first stop string that is complete, and that stop string."""
    for stop in range(1, len(text) + 1):
        ending = [string for string in stops if text[:stop].endswith(string)]
        if ending:
            longest = max(ending, key=len)
            return text[: stop - len(longest)], longest
    return text, ""


def test_the_text_ends_at_the_same_character_in_any_pieces_without_a_part_of_the_stop_string() -> None:
    random = np.random.default_rng(3)

    def word(longest: int, letters: str = "ab🐉") -> str:
        return "".join(random.choice(list(letters), size=random.integers(1, longest + 1)))

    matched = 0
    for _ in range(5_000):
        stops = [word(4) for _ in range(random.integers(0, 4))]
        pieces = [word(3) for _ in range(random.integers(0, 12))]
        expected, ending = cut_by_definition("".join(pieces), stops)
        stop_strings, text = StopStrings(stops), ""
        for piece in pieces:
            text += stop_strings.push(piece)
            assert expected.startswith(text), "no text is returned that a stop string removes"
        assert (text + stop_strings.end(), stop_strings.matched) == (expected, ending)
        matched += bool(ending)
    assert 1_000 < matched < 4_500, "both endings are frequent"


def test_only_the_start_of_a_stop_string_is_held_back() -> None:
    stop_strings = StopStrings(["\n\nThe end"])
    assert [stop_strings.push(piece) for piece in ["Hi.\n", "\nT", "om", " ran"]] == ["Hi.", "", "\n\nTom", " ran"]


def test_no_text_follows_a_stop_string() -> None:
    stop_strings = StopStrings(["."])
    assert [stop_strings.push("a. b"), stop_strings.push("c"), stop_strings.end()] == ["a", "", ""]
    assert stop_strings.matched == "."


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        StopStrings(["a", ""])
    assert str(error.value) == "A stop string is empty, and would end every text at once. Give --stop some text."
