"""What texts are told from: the weights as they were learned, or as bytes."""

from typing import Literal, get_args

from fabella.errors import UsageError

Weights = Literal["float32", "int8"]
"""int8: every large matrix in bytes with a scale for each output; a quarter of the memory to read for every token."""


def weights_of(name: str) -> Weights:
    """The kind of this name. Raises UsageError for others."""
    for known in get_args(Weights):
        if name == known:
            return known
    raise UsageError(f"weights = {name!r} is no kind.", fix=f"Choose from: {', '.join(get_args(Weights))}.")
