"""Storage types of the weights while decoding, and chunks of a prompt."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from fabella.errors import UsageError

WeightDtype = Literal["float32", "float16", "int8"]
"""float16 and int8: every large matrix in half or a quarter of the memory, all of which is read for every token."""


def parse_weight_dtype(name: str) -> WeightDtype:
    """The kind of this name. Raises UsageError for others."""
    for known in get_args(WeightDtype):
        if name == known:
            return known
    raise UsageError(f"weights = {name!r} is no kind.", hint=f"Choose from: {', '.join(get_args(WeightDtype))}.")


class PrefillChunk(NamedTuple):
    """More tokens of the text in one row, of which ``start`` have been read."""

    row: int
    tokens: Sequence[int]
    start: int
