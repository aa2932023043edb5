"""Base class and field types of all config sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# YAML and the command line give lists; the frozen section keeps a tuple.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)]


class ConfigModel(BaseModel):
    """One part of a config: frozen, strict about types, closed to unknown keys and to NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
