"""Stories grow id by id, end in one of three ways, and are told side by side without disturbing each other."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.generation.completion import PREFILLING, ActiveCompletion, Completion, CompletionStream, groups
from tests.generation.tiny_run import tokenizer

END = tokenizer().eos_id


def grown(said: bytes | list[int], *, stops: Sequence[str] = (), max_tokens: int = 100) -> Completion:
    """The story of these ids; taking goes on after its end, as it does for one of many."""
    text = ActiveCompletion("", tokenizer(), read=1, stops=stops, max_tokens=max_tokens)
    text.begin()
    pieces = [text.take(token) for token in said]
    story = text.story(context_shifts=0)
    assert "".join(pieces) == story.completion
    return story


def outcome(story: Completion) -> tuple[str, str, int]:
    return story.completion, story.finish_reason, story.tokens


def test_a_story_ends_with_the_models_end_which_is_no_token_of_it() -> None:
    assert outcome(grown([*b"The end.", END, *b"Another"])) == ("The end.", "end", 8)


def test_a_story_ends_before_a_stop_string() -> None:
    assert outcome(grown(b"One. Two. Three", stops=[". T"])) == ("One", "stop", 6)


def test_a_story_ends_at_the_largest_number_of_tokens() -> None:
    assert outcome(grown(b"Once upon", max_tokens=4)) == ("Once", "length", 4)


def test_a_stop_string_with_the_last_token_is_a_stop() -> None:
    assert outcome(grown(b"One. Two", stops=[". "], max_tokens=5)) == ("One", "stop", 5)


@pytest.mark.parametrize("ending", [[END], []])
def test_what_was_held_back_is_told_at_the_end(ending: list[int]) -> None:
    """The beginning of a stop string that never came, and three bytes of a dragon that never became whole."""
    said = [*b"Hi.\n", *"🐉".encode()[:3]]
    assert grown([*said, *ending], stops=[".\nT"], max_tokens=7).completion == "Hi.\n\N{REPLACEMENT CHARACTER}"
    assert grown([*b"Hi.\n", *ending], stops=[".\nT"], max_tokens=4).completion == "Hi.\n"


def test_a_stop_string_may_be_completed_by_the_torn_character_at_the_end() -> None:
    story = grown([*b"Hi", 0xF0, END], stops=["i\N{REPLACEMENT CHARACTER}"])
    assert outcome(story) == ("H", "stop", 3)


def test_a_story_that_reads_its_prompt_says_nothing() -> None:
    assert grown([PREFILLING, PREFILLING, *b"ab", END]).completion == "ab"


def test_the_text_is_prompt_and_told() -> None:
    text = ActiveCompletion("Once", tokenizer(), read=5, stops=(), max_tokens=2)
    text.begin()
    assert [text.take(token) for token in b" u"] == [" ", "u"]
    story = text.story(context_shifts=3)
    assert (story.text, story.prompt, story.completion, story.context_shifts) == ("Once u", "Once", " u", 3)
    assert story.seconds > 0


@pytest.mark.parametrize(("said", "length"), [(b"abc", 4 + 2), ([*b"ab", END], 4 + 2)])
def test_the_length_is_what_the_last_choice_was_made_from(said: list[int], length: int) -> None:
    text = ActiveCompletion("One ", tokenizer(), read=4, stops=(), max_tokens=3)
    for token in said:
        text.take(token)
    assert text.length == length


# ---------------------------------------------------------------- side by side


def telling(texts: list[bytes], grouped: list[list[int]], *, max_tokens: int = 100) -> CompletionStream:
    """Each text is said byte by byte, then ended by the end id for ever."""
    growing = [
        ActiveCompletion(f"{n}:", tokenizer(), read=2, stops=(), max_tokens=max_tokens) for n in range(len(texts))
    ]

    def steps(group: Sequence[int]) -> Iterator[list[int]]:
        for place in range(max_tokens):
            yield [texts[number][place] if place < len(texts[number]) else END for number in group]

    return CompletionStream(growing, grouped, steps, lambda length: length)


TEXTS = st.lists(st.binary(max_size=6).map(lambda raw: bytes(byte % 26 + 97 for byte in raw)), min_size=1, max_size=6)


@given(texts=TEXTS)
def test_pieces_in_order_are_story_after_story(texts: list[bytes]) -> None:
    numbers = list(range(len(texts)))
    grouped = [group for group in (numbers[::2], numbers[1::2]) if group]
    for chosen in (grouped, [numbers]):
        heard = telling(texts, chosen)
        pieces = list(heard.in_prompt_order())
        assert [number for number, _ in pieces] == sorted(number for number, _ in pieces)
        for number, text in enumerate(texts):
            assert "".join(piece for n, piece in pieces if n == number) == text.decode()
        assert [story.completion for story in heard.stories()] == [text.decode() for text in texts]


def test_the_first_story_is_heard_while_it_grows_and_the_next_as_soon_as_it_has_ended() -> None:
    heard = list(telling([b"ab", b"xyz", b""], [[0, 1, 2]]).in_prompt_order())
    assert heard == [(0, ""), (0, "a"), (0, "b"), (1, "xyz"), (2, "")]
    heard = list(telling([b"a", b"wxyz"], [[0, 1]]).in_prompt_order())
    assert heard == [(0, ""), (0, "a"), (1, "wx"), (1, "y"), (1, "z")]


def test_pieces_name_their_story() -> None:
    assert list(telling([b"ab", b"x"], [[0, 1]])) == [(0, "a"), (1, "x"), (0, "b")]


def test_stories_stop_asking_when_all_have_ended() -> None:
    asked = 0

    def steps(group: Sequence[int]) -> Iterator[list[int]]:
        nonlocal asked
        while True:
            asked += 1
            yield [END]

    CompletionStream(
        [ActiveCompletion("", tokenizer(), read=1, stops=(), max_tokens=9)], [[0]], steps, lambda length: 0
    ).stories()
    assert asked == 1


# ---------------------------------------------------------------- who is told together


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), spread=st.integers(1, 30), most=st.integers(1, 9))
def test_groups_hold_every_text_once_within_their_bounds(lengths: list[int], spread: int, most: int) -> None:
    found = groups(lengths, spread=spread, most=most)
    assert sorted(number for group in found for number in group) == list(range(len(lengths)))
    assert found[0][0] == 0
    for group in found:
        assert len(group) <= most
        assert max(lengths[number] for number in group) - min(lengths[number] for number in group) <= spread


def test_prompts_are_told_together_unless_reading_costs_more_than_telling() -> None:
    assert groups([5, 9, 300, 7, 310], spread=20, most=32) == [[0, 1, 3], [2, 4]]
