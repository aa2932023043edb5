"""How a text goes on that is longer than its model can look back: one rule for both engines."""

UNLIMITED = 2**31 - 1
"""The context of a model that never has to forget: longer than any text."""


def context_start(length: int, context: int) -> int:
    """First position that the model looks at when the text is ``length`` tokens long.

    While the text fits, 0. When the context is full, the last half of it is read anew, fills up again, and so
    on. The rule depends on the length alone, so a text read at once and one told token by token see the same.
    """
    return context_shifts(length, context) * _stride(context)


def context_shifts(length: int, context: int) -> int:
    """How many times the context was full, and its last half read anew."""
    return max(0, -(-(length - context) // _stride(context)))


def _stride(context: int) -> int:
    # The window of context // 2 tokens that remains includes the token that no longer fitted.
    return context - max(1, context // 2) + 1
