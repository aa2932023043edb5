"""A text longer than the context goes on in a window that depends on its length alone."""

from hypothesis import given
from hypothesis import strategies as st

from fabella.generation.context_shift import UNLIMITED, context_shifts, context_start


def told_token_by_token(length: int, context_length: int) -> tuple[int, int]:
    """The definition: read on while there is room; when there is none, read the last half of the text anew."""
    start = times = 0
    for read in range(1, length + 1):
        if read - start > context_length:
            start, times = read - max(1, context_length // 2), times + 1
    return start, times


@given(length=st.integers(1, 600), context_length=st.integers(1, 90))
def test_the_window_is_that_of_a_text_told_token_by_token(length: int, context_length: int) -> None:
    assert (context_start(length, context_length), context_shifts(length, context_length)) == told_token_by_token(
        length, context_length
    )


@given(length=st.integers(1, 10**9), context_length=st.integers(1, 2**20))
def test_the_window_holds_at_least_half_a_context_and_never_more_than_one(length: int, context_length: int) -> None:
    held = length - context_start(length, context_length)
    assert min(length, max(1, context_length // 2)) <= held <= context_length


def test_a_text_without_end_forgets_nothing() -> None:
    assert context_start(10**6, UNLIMITED) == context_shifts(10**6, UNLIMITED) == 0
