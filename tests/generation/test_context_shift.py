"""Tests of context shifts: the context of a long sequence depends only on its length."""

from hypothesis import given
from hypothesis import strategies as st

from fabella.generation.context_shift import UNLIMITED, context_shifts, context_start


def decoded_token_by_token(length: int, context_length: int) -> tuple[int, int]:
    """Definition of (start, shifts): when the context is full, only its last half remains, including the new token."""
    start = shifts = 0
    for tokens in range(1, length + 1):
        if tokens - start > context_length:
            start, shifts = tokens - max(1, context_length // 2), shifts + 1
    return start, shifts


@given(length=st.integers(1, 600), context_length=st.integers(1, 90))
def test_the_context_is_the_one_of_decoding_token_by_token(length: int, context_length: int) -> None:
    assert (context_start(length, context_length), context_shifts(length, context_length)) == decoded_token_by_token(
        length, context_length
    )


@given(length=st.integers(1, 10**9), context_length=st.integers(1, 2**20))
def test_a_long_sequence_keeps_at_least_half_a_context_and_at_most_a_whole_one(
    length: int, context_length: int
) -> None:
    kept_tokens = length - context_start(length, context_length)
    assert min(length, max(1, context_length // 2)) <= kept_tokens <= context_length


def test_an_unlimited_context_never_shifts() -> None:
    assert context_start(10**6, UNLIMITED) == context_shifts(10**6, UNLIMITED) == 0
