"""Joined deltas are the completion, and tokens come with their text."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.generation.continuous_batching import SampledToken
from fabella.generation.detokenizer import StopStrings
from fabella.server.scheduler import Delta, ServedCompletion
from tests.generation.tiny_run import tokenizer

TOKENIZER = tokenizer()
OUTPUTS = st.text("abé🐉\n", max_size=25).map(str.encode)


def deltas_of(ids: list[int], stops: list[str], *, max_tokens: int = 1000) -> list[Delta]:
    completion = ServedCompletion(TOKENIZER, stops=stops, max_tokens=max_tokens)
    deltas: list[Delta] = []
    for token in [*ids, TOKENIZER.eos_id]:
        deltas.append(completion.append(SampledToken(request=0, token=token)))
        if deltas[-1].finish_reason:
            break
    return deltas


def check_stops(output: bytes, stops: list[str]) -> None:
    deltas = deltas_of(list(output), stops)
    reader = StopStrings(stops)
    expected = "".join(reader.push(character) for character in output.decode("utf-8", "replace")) + reader.end()
    assert "".join(delta.text for delta in deltas) == expected
    assert deltas[-1].finish_reason == ("stop" if reader.found else "eos")


@pytest.mark.fault("F23", cases=5000)
def test_no_part_of_a_stop_sequence_is_emitted() -> None:
    random = Random(23)
    stopped = 0
    for case in range(5000):
        letters = random.choices("abé🐉\n", k=random.randint(0, 25))
        output = "".join(letters).encode()
        if case % 2:  # missing bytes and invalid bytes
            output = bytes(random.choice((byte, 0xC3, 0xF0)) if random.random() < 0.2 else byte for byte in output)
        stops = ["".join(random.choices("abé🐉\n", k=random.randint(1, 4))) for _ in range(random.randint(0, 4))]
        check_stops(output, stops)
        stopped += any(stop in output.decode("utf-8", "replace") for stop in stops)
    assert stopped > 1000


@settings(max_examples=300)
@given(
    output=OUTPUTS | st.binary(max_size=25).filter(lambda output: TOKENIZER.eos_id not in output),
    stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=4),
)
def test_no_part_of_a_stop_sequence_is_emitted_for_generated_cases(output: bytes, stops: list[str]) -> None:
    check_stops(output, stops)


@given(output=OUTPUTS, stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=2))
def test_the_tokens_spell_the_completion(output: bytes, stops: list[str]) -> None:
    deltas = deltas_of(list(output), stops)
    text = "".join(delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert b"".join(TOKENIZER.token_bytes(token.id) for token in tokens).decode() == text
    emitted = 0
    for delta in deltas:
        emitted += len(delta.text)
        assert all(token.start <= emitted for token in delta.tokens)


def test_the_last_delta_at_max_tokens_contains_the_text_that_was_held_back() -> None:
    deltas = deltas_of([*b"ab\xc3"], ["abc"], max_tokens=3)
    assert "".join(delta.text for delta in deltas) == "ab\ufffd"
    assert deltas[-1].finish_reason == "length"
    assert sum(len(delta.tokens) for delta in deltas) == 3


def test_a_truncated_completion_emits_the_text_that_was_held_back() -> None:
    completion = ServedCompletion(TOKENIZER, stops=["abc"], max_tokens=100)
    assert completion.append(SampledToken(request=0, token=ord("a"))) == Delta()
    last = completion.truncate()
    assert (last.text, last.finish_reason, len(last.tokens)) == ("a", "length", 1)
