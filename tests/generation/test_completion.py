"""Tests that completions get tokens one by one, end for one of three reasons, and stream independently."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.generation.completion import ActiveCompletion, Completion, CompletionStream, batch_prompts
from tests.generation.tiny_run import tokenizer

EOS = tokenizer().eos_id


def complete(tokens: bytes | list[int], *, stop: Sequence[str] = (), max_tokens: int = 100) -> Completion:
    """Append all tokens, also after the end, as happens to one completion of a batch."""
    active = ActiveCompletion(tokenizer(), stop=stop, max_tokens=max_tokens)
    pieces = [active.append(token) for token in tokens]
    completion = active.result(context_shifts=0)
    assert "".join(pieces) == completion.completion
    assert active.returned_chars == len(completion.completion)
    return completion


def outcome(completion: Completion) -> tuple[str, str, int]:
    return completion.completion, completion.finish_reason, completion.tokens


def test_eos_ends_a_completion_and_is_not_counted_as_a_token() -> None:
    assert outcome(complete([*b"The end.", EOS, *b"Another"])) == ("The end.", "eos", 8)


def test_a_completion_ends_before_a_stop_string() -> None:
    assert outcome(complete(b"One. Two. Three", stop=[". T"])) == ("One", "stop", 6)


def test_a_completion_ends_at_max_tokens() -> None:
    assert outcome(complete(b"Once upon", max_tokens=4)) == ("Once", "length", 4)


def test_a_stop_string_completed_by_the_last_token_gives_finish_reason_stop() -> None:
    assert outcome(complete(b"One. Two", stop=[". "], max_tokens=5)) == ("One", "stop", 5)


@pytest.mark.parametrize("ending", [[EOS], []])
def test_held_back_text_is_released_at_the_end(ending: list[int]) -> None:
    """Text is held back for the start of a stop string, and for three bytes of an incomplete character."""
    tokens = [*b"Hi.\n", *"🐉".encode()[:3]]
    assert complete([*tokens, *ending], stop=[".\nT"], max_tokens=7).completion == "Hi.\n\N{REPLACEMENT CHARACTER}"
    assert complete([*b"Hi.\n", *ending], stop=[".\nT"], max_tokens=4).completion == "Hi.\n"


def test_an_incomplete_character_at_the_end_may_complete_a_stop_string() -> None:
    completion = complete([*b"Hi", 0xF0, EOS], stop=["i\N{REPLACEMENT CHARACTER}"])
    assert outcome(completion) == ("H", "stop", 3)


def test_prefill_adds_no_text_and_no_tokens() -> None:
    active = ActiveCompletion(tokenizer(), max_tokens=100)
    active.restart_clock()
    assert (active.tokens, active.decoded_chars, active.returned_chars, active.finish_reason) == (0, 0, 0, None)
    pieces = [active.append(token) for token in [*b"ab", EOS]]
    assert "".join(pieces) == active.result(context_shifts=0).completion == "ab"


def test_truncate_releases_held_back_text_and_ends_with_finish_reason_length() -> None:
    active = ActiveCompletion(tokenizer(), stop=[".\nT"], max_tokens=100)
    assert [active.append(token) for token in b"Hi."] == ["H", "i", ""]
    assert (active.decoded_chars, active.returned_chars) == (3, 2)
    assert active.truncate() == "."
    assert active.truncate() == ""
    assert outcome(active.result(context_shifts=0)) == ("Hi.", "length", 3)


def test_text_is_prompt_and_completion() -> None:
    active = ActiveCompletion(tokenizer(), max_tokens=2, prompt="Once", prompt_tokens=5)
    active.restart_clock()
    assert [active.append(token) for token in b" u"] == [" ", "u"]
    completion = active.result(context_shifts=3)
    assert completion.text == "Once u"
    assert (completion.prompt, completion.completion, completion.context_shifts) == ("Once", " u", 3)
    assert completion.seconds > 0


@pytest.mark.parametrize(("tokens", "length"), [(b"abc", 4 + 2), ([*b"ab", EOS], 4 + 2)])
def test_the_input_length_counts_the_tokens_before_the_last_sampled_one(tokens: list[int], length: int) -> None:
    active = ActiveCompletion(tokenizer(), max_tokens=3, prompt="One ", prompt_tokens=4)
    for token in tokens:
        active.append(token)
    assert active.input_length == length


# ---------------------------------------------------------------- several completions


def stream(texts: list[bytes], batches: list[list[int]], *, max_tokens: int = 100) -> CompletionStream:
    """Generate each text byte by byte, followed by EOS tokens without end."""
    active = [
        ActiveCompletion(tokenizer(), max_tokens=max_tokens, prompt=f"{n}:", prompt_tokens=2) for n in range(len(texts))
    ]

    def decode(batch: Sequence[int]) -> Iterator[list[int]]:
        for step in range(max_tokens):
            yield [texts[number][step] if step < len(texts[number]) else EOS for number in batch]

    return CompletionStream(active, batches, decode, lambda length: length)


TEXTS = st.lists(st.binary(max_size=6).map(lambda raw: bytes(byte % 26 + 97 for byte in raw)), min_size=1, max_size=6)


@given(texts=TEXTS)
def test_in_prompt_order_yields_one_completion_after_the_other(texts: list[bytes]) -> None:
    numbers = list(range(len(texts)))
    interleaved = [batch for batch in (numbers[::2], numbers[1::2]) if batch]
    for batches in (interleaved, [numbers]):
        completions = stream(texts, batches)
        pieces = list(completions.in_prompt_order())
        assert [number for number, _ in pieces] == sorted(number for number, _ in pieces)
        for number, text in enumerate(texts):
            assert "".join(piece for n, piece in pieces if n == number) == text.decode()
        assert [completion.completion for completion in completions.completions()] == [text.decode() for text in texts]


def test_the_first_completion_streams_and_the_next_one_starts_when_it_has_ended() -> None:
    pieces = list(stream([b"ab", b"xyz", b""], [[0, 1, 2]]).in_prompt_order())
    assert pieces == [(0, ""), (0, "a"), (0, "b"), (1, "xyz"), (2, "")]
    pieces = list(stream([b"a", b"wxyz"], [[0, 1]]).in_prompt_order())
    assert pieces == [(0, ""), (0, "a"), (1, "wx"), (1, "y"), (1, "z")]


def test_pieces_carry_the_number_of_their_completion() -> None:
    assert list(stream([b"ab", b"x"], [[0, 1]])) == [(0, "a"), (1, "x"), (0, "b")]


def test_decoding_stops_when_all_completions_have_ended() -> None:
    steps = 0

    def decode(batch: Sequence[int]) -> Iterator[list[int]]:
        nonlocal steps
        while True:
            steps += 1
            yield [EOS]

    CompletionStream([ActiveCompletion(tokenizer(), max_tokens=9)], [[0]], decode, lambda length: 0).completions()
    assert steps == 1


# ---------------------------------------------------------------- batches of prompts


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), spread=st.integers(1, 30), most=st.integers(1, 9))
def test_batches_hold_every_prompt_once_within_their_limits(lengths: list[int], spread: int, most: int) -> None:
    batches = batch_prompts(lengths, max_spread=spread, max_batch_size=most)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    assert batches[0][0] == 0
    for batch in batches:
        assert len(batch) <= most
        assert max(lengths[number] for number in batch) - min(lengths[number] for number in batch) <= spread


def test_prompts_share_a_batch_unless_prefill_costs_more_than_decoding() -> None:
    assert batch_prompts([5, 9, 300, 7, 310], max_spread=20, max_batch_size=32) == [[0, 1, 3], [2, 4]]
