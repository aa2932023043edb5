"""What texts are told from: the weights as they were learned, or in less memory."""

from typing import Literal, get_args

from fabella.errors import UsageError

Weights = Literal["float32", "float16", "int8"]
"""float16 and int8: every large matrix in half or a quarter of the memory, all of which is read for every token."""


def weights_of(name: str) -> Weights:
    """The kind of this name. Raises UsageError for others."""
    for known in get_args(Weights):
        if name == known:
            return known
    raise UsageError(f"weights = {name!r} is no kind.", fix=f"Choose from: {', '.join(get_args(Weights))}.")
