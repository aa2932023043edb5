"""Base class and shared field types of the config sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Integer from 1 to 2**31 - 1."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""Number from 0 to 1."""
# YAML and the command line give lists; the frozen section holds tuples.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)]


class ConfigModel(BaseModel):
    """Frozen config section with strict types; it refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
