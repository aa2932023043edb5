"""What a family's sizes may be: every number of a ``Config`` is bounded before anything is allocated."""

from typing import Annotated

from pydantic import Field

from fabella.models.parameters import ParameterTable, count

Dim = Annotated[int, Field(ge=1, le=2**14)]
Hidden = Annotated[int, Field(ge=1, le=2**16)]
Layers = Annotated[int, Field(ge=1, le=512)]
Heads = Annotated[int, Field(ge=1, le=512)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
InitStd = Annotated[float, Field(gt=0.0, le=10.0)]
Epsilon = Annotated[float, Field(ge=1e-12, le=0.1)]
RotaryBase = Annotated[float, Field(ge=1.0, le=1e9)]

MOST_PARAMETERS = 10**10
"""A hundred times the largest model meant here: beyond it a size was mistyped, or a file is hostile."""


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raises ValueError naming the nearest ``divisor`` that divides ``value``."""
    if value % divisor:
        nearest = min((d for d in range(1, value + 1) if value % d == 0), key=lambda d: (abs(d - divisor), d))
        raise ValueError(
            f"{name} = {value} is not a multiple of {divisor_name} = {divisor}; try {divisor_name} = {nearest}"
        )


def require_even(name: str, value: float, reason: str) -> None:
    """Raises ValueError where ``value`` is not an even whole number of at least 2."""
    if value < 2 or value % 2:
        raise ValueError(f"{name} = {value:g} is not an even number; {reason}")


def require_max_parameters(table: ParameterTable) -> None:
    """Raises ValueError where a model has more parameters than any that is meant here."""
    parameters = count(table)
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"the model has {parameters:,} parameters, more than {MOST_PARAMETERS:,}; try a smaller dim")
