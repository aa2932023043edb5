"""Pieces joined are the story, and tokens come with their text."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.generation.continuous_batching import SampledToken
from fabella.generation.detokenizer import StopStrings
from fabella.server.delta_stream import ActiveCompletion, Delta
from tests.generation.tiny_run import tokenizer

TOKENIZER = tokenizer()
SPOKEN = st.text("abé🐉\n", max_size=25).map(str.encode)


def told(ids: list[int], stops: list[str], *, max_tokens: int = 1000) -> list[Delta]:
    one = ActiveCompletion(TOKENIZER, stops=stops, max_tokens=max_tokens)
    pieces: list[Delta] = []
    for token in [*ids, TOKENIZER.eos_id]:
        pieces.append(one.append(SampledToken(request=0, token=token)))
        if pieces[-1].ended_by:
            break
    return pieces


def check_stops(spoken: bytes, stops: list[str]) -> None:
    pieces = told(list(spoken), stops)
    reader = StopStrings(stops)
    expected = "".join(reader.push(character) for character in spoken.decode("utf-8", "replace")) + reader.end()
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].ended_by == ("stop" if reader.found else "end")


@pytest.mark.fault("F23", cases=5000)
def test_no_part_of_a_stop_string_is_ever_told() -> None:
    random = Random(23)
    stopped = 0
    for case in range(5000):
        letters = random.choices("abé🐉\n", k=random.randint(0, 25))
        spoken = "".join(letters).encode()
        if case % 2:  # bytes lost, bytes that are none
            spoken = bytes(random.choice((byte, 0xC3, 0xF0)) if random.random() < 0.2 else byte for byte in spoken)
        stops = ["".join(random.choices("abé🐉\n", k=random.randint(1, 4))) for _ in range(random.randint(0, 4))]
        check_stops(spoken, stops)
        stopped += any(stop in spoken.decode("utf-8", "replace") for stop in stops)
    assert stopped > 1000


@settings(max_examples=300)
@given(
    spoken=SPOKEN | st.binary(max_size=25).filter(lambda spoken: TOKENIZER.eos_id not in spoken),
    stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=4),
)
def test_nor_where_hypothesis_looks_for_it(spoken: bytes, stops: list[str]) -> None:
    check_stops(spoken, stops)


@given(spoken=SPOKEN, stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=2))
def test_the_tokens_are_those_of_the_text(spoken: bytes, stops: list[str]) -> None:
    pieces = told(list(spoken), stops)
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert b"".join(TOKENIZER.token_bytes(token.id) for token in tokens).decode() == text
    given_out = 0
    for piece in pieces:
        given_out += len(piece.text)
        assert all(token.start <= given_out for token in piece.tokens)


def test_a_text_ends_at_its_longest_with_what_was_held_back() -> None:
    pieces = told([*b"ab\xc3"], ["abc"], max_tokens=3)
    assert "".join(piece.text for piece in pieces) == "ab\ufffd"
    assert pieces[-1].ended_by == "length"
    assert sum(len(piece.tokens) for piece in pieces) == 3


def test_a_text_that_is_given_up_says_what_it_had() -> None:
    one = ActiveCompletion(TOKENIZER, stops=["abc"], max_tokens=100)
    assert one.append(SampledToken(request=0, token=ord("a"))) == Delta()
    last = one.truncate()
    assert (last.text, last.ended_by, len(last.tokens)) == ("a", "length", 1)
