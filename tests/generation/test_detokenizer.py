"""Text that grows is the text that is decoded whole, and never shows a part of what ends it."""

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
# One byte of every kind that UTF-8 tells apart: ASCII, the three ranges of continuation, every kind of lead, the never.
KINDS_OF_BYTES = bytes.fromhex("41 80 90 a0 c2 e0 e1 ed f0 f1 f4 ff")


class OneByteATime:
    """The least that a stream needs."""

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


def streamed(tokenizer: Tokenizer | OneByteATime, ids: list[int]) -> tuple[str, int]:
    """The pieces joined, and the most bytes that were ever pending."""
    stream = IncrementalDetokenizer(tokenizer)
    pieces, pending = [], 0
    for token in ids:
        pieces.append(stream.push(token))
        pending = max(pending, len(stream.pending))
    return "".join([*pieces, stream.end()]), pending


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    sections = {"bytes": Bytes(), "bpe": BPE(vocab_size=400), "sentencepiece": SentencePiece(vocab_size=400)}
    return {name: train(section, [TEXT]) for name, section in sections.items()}


def anything(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Ids that no text would give: any of them, the end of a document among them."""
    return random.integers(0, tokenizer.vocab_size, size=random.integers(0, 40))


def single_bytes(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Only ids of one byte, most of them parts of characters."""
    ids = [token for token in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(token)) == 1]
    return random.choice(ids, size=random.integers(0, 40))


def torn_text(random: np.random.Generator, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Real text of which ids were lost, so that characters are torn."""
    ids = tokenizer.encode(TEXT[random.integers(0, 60) :][:40])
    return ids[random.random(len(ids)) < 0.8].astype(np.int64)


@pytest.mark.fault("G2", cases=20_000)
def test_streaming_any_ids_gives_what_decoding_them_whole_gives(tokenizers: dict[str, Tokenizer]) -> None:
    random = np.random.default_rng(2)
    makers: list[Callable[[np.random.Generator, Tokenizer], NDArray[np.int64]]] = [anything, single_bytes, torn_text]
    torn = most_pending = 0
    for case in range(20_000):
        tokenizer = list(tokenizers.values())[case % 3]
        ids = makers[case // 3 % 3](random, tokenizer).tolist()
        text, pending = streamed(tokenizer, ids)
        assert text == tokenizer.decode(ids), ids
        most_pending = max(most_pending, pending)
        torn += "\N{REPLACEMENT CHARACTER}" in text
    assert most_pending == 3, "a character of four bytes waits for its last, and nothing waits longer"
    assert torn > 5_000, "the cases are about damage"


def test_every_sequence_of_four_kinds_of_bytes_is_replaced_as_python_replaces_it_whole() -> None:
    """Four bytes are the longest that UTF-8 reads together, so this covers what a decoder can meet."""
    tokenizer = OneByteATime()
    for length in range(5):
        for sequence in itertools.product(KINDS_OF_BYTES, repeat=length):
            text, pending = streamed(tokenizer, list(sequence))
            assert text == bytes(sequence).decode("utf-8", "replace")
            assert pending <= 3


@given(text=st.text(), data=st.data())
def test_text_in_any_pieces_of_its_bytes_comes_back_unchanged(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    parts = [raw[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(raw)])]

    class Parts:
        def token_bytes(self, token: int) -> bytes:
            return parts[token]

    assert streamed(Parts(), list(range(len(parts))))[0] == text  # type: ignore[arg-type]


def test_a_character_waits_until_it_is_whole() -> None:
    stream = IncrementalDetokenizer(OneByteATime())
    assert [stream.push(byte) for byte in "é🐉".encode()] == ["", "é", "", "", "", "🐉"]


def test_a_stream_that_ended_begins_anew() -> None:
    stream = IncrementalDetokenizer(OneByteATime())
    assert (stream.push(0xF0), stream.end()) == ("", "\N{REPLACEMENT CHARACTER}")
    assert (stream.push(0x61), stream.end()) == ("a", "")


# ---------------------------------------------------------------- strings that end a text


def read_character_by_character(text: str, stops: list[str]) -> tuple[str, str]:
    """The definition: the text before the first stop string that becomes complete, and that string."""
    for stop in range(1, len(text) + 1):
        ending = [string for string in stops if text[:stop].endswith(string)]
        if ending:
            longest = max(ending, key=len)
            return text[: stop - len(longest)], longest
    return text, ""


def test_any_pieces_stop_at_the_same_place_and_never_show_a_part_of_the_stop_string() -> None:
    random = np.random.default_rng(3)

    def word(longest: int, letters: str = "ab🐉") -> str:
        return "".join(random.choice(list(letters), size=random.integers(1, longest + 1)))

    found = 0
    for _ in range(5_000):
        stops = [word(4) for _ in range(random.integers(0, 4))]
        pieces = [word(3) for _ in range(random.integers(0, 12))]
        expected, ending = read_character_by_character("".join(pieces), stops)
        reader, shown = StopStrings(stops), ""
        for piece in pieces:
            shown += reader.push(piece)
            assert expected.startswith(shown), "nothing is shown that a stop string takes back"
        assert (shown + reader.end(), reader.matched) == (expected, ending)
        found += bool(ending)
    assert 1_000 < found < 4_500, "both endings are frequent"


def test_only_what_may_become_a_stop_string_waits() -> None:
    reader = StopStrings(["\n\nThe end"])
    assert [reader.push(piece) for piece in ["Hi.\n", "\nT", "om", " ran"]] == ["Hi.", "", "\n\nTom", " ran"]


def test_after_the_stop_string_comes_nothing() -> None:
    reader = StopStrings(["."])
    assert [reader.push("a. b"), reader.push("c"), reader.end()] == ["a", "", ""]
    assert reader.matched == "."


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        StopStrings(["a", ""])
    assert str(error.value) == "A stop string is empty, and would end every text at once. Give --stop some text."
