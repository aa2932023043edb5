"""Context shift: drop the oldest half of a full context and prefill the rest. One rule for both engines."""

UNLIMITED = 2**31 - 1
"""Context length, in tokens, of a model that never shifts: longer than any sequence."""


def context_start(length: int, context_length: int) -> int:
    """Return the position of the first token that the model sees of a sequence of ``length`` tokens.

    It is 0 while the sequence fits into ``context_length`` tokens. When the context is full, its last half is
    prefilled again, and decoding continues until it is full again. The start depends only on the length, so prefill
    and token-by-token decoding agree.
    """
    return context_shifts(length, context_length) * _stride(context_length)


def context_shifts(length: int, context_length: int) -> int:
    """Return the number of context shifts after ``length`` tokens with a context of ``context_length`` tokens."""
    return max(0, -(-(length - context_length) // _stride(context_length)))


def _stride(context_length: int) -> int:
    # The context_length // 2 tokens that remain include the token that did not fit.
    return context_length - max(1, context_length // 2) + 1
