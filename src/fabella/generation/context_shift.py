"""Context shift: drop the oldest half of a full context and prefill the rest. One rule for both engines."""

UNLIMITED = 2**31 - 1
"""Context length of a model that never shifts: longer than any text."""


def context_start(length: int, context: int) -> int:
    """Return the first position that the model sees of a text of ``length`` tokens.

    It is 0 while the text fits into ``context`` tokens. When the context is full, its last half is prefilled again,
    fills up again, and so on. The start depends only on the length, so prefill and token-by-token decoding agree.
    """
    return context_shifts(length, context) * _stride(context)


def context_shifts(length: int, context: int) -> int:
    """Return how many times a text of ``length`` tokens has shifted a context of ``context`` tokens."""
    return max(0, -(-(length - context) // _stride(context)))


def _stride(context: int) -> int:
    # The context // 2 tokens that remain include the token that did not fit any more.
    return context - max(1, context // 2) + 1
