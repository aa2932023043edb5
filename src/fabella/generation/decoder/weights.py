"""Storage types of the weights while decoding, and chunks of a prompt."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from fabella.errors import UsageError

WeightDtype = Literal["float32", "float16", "bfloat16", "int8"]
"""float16 and bfloat16 store the matrices in half the memory, int8 in a quarter; int8 rounds the token embeddings, too.
Decoding reads all matrices for every token."""


def parse_weight_dtype(name: str) -> WeightDtype:
    """Return the weight dtype called ``name``. Raises UsageError if there is none."""
    for dtype in get_args(WeightDtype):
        if name == dtype:
            return dtype
    raise UsageError(f"Unknown weight dtype {name!r}.", hint=f"Choose from: {', '.join(get_args(WeightDtype))}.")


class PrefillChunk(NamedTuple):
    """Next tokens of the prompt in ``row``, from position ``start`` on."""

    row: int
    tokens: Sequence[int]
    start: int
