"""Field types and checks for the sizes in a family's ``Config``, so that every size is bounded before allocation."""

from typing import Annotated, Literal

from pydantic import Field

from fabella.models.parameters import ParameterTable, count

Dim = Annotated[int, Field(ge=1, le=2**14, description="size of the hidden states, 1 to 16,384")]
Hidden = Annotated[int, Field(ge=1, le=2**16, description="inner size of the MLP, 1 to 65,536")]
Layers = Annotated[int, Field(ge=1, le=512, description="blocks, 1 to 512")]
Heads = Annotated[int, Field(ge=1, le=512, description="attention heads of a block, 1 to 512")]
KVHeads = Annotated[
    int, Field(ge=1, le=512, description="heads of keys and values, 1 to heads; they divide the attention heads")
]
HeadDim = Annotated[int, Field(ge=1, le=2**14, description="size of one attention head, 1 to 16,384")]
Dropout = Annotated[
    float, Field(ge=0.0, lt=1.0, description="share of values set to 0 in training, from 0 to below 1; 0 disables it")
]
InitStd = Annotated[
    float, Field(gt=0.0, le=10.0, description="standard deviation of the matrices before training, above 0 to 10")
]
Epsilon = Annotated[float, Field(ge=1e-12, le=0.1, description="number added to the variance in a norm, 1e-12 to 0.1")]
RotaryBase = Annotated[
    float,
    Field(ge=1.0, le=1e9, description="base of the rotary frequencies, 1 to 1e9; a higher one rotates more slowly"),
]
TieEmbeddings = Annotated[bool, Field(description="true: the output head has the weights of the embedding")]
Activation = Annotated[
    Literal["gelu", "gelu_tanh"], Field(description="activation of the MLP; gelu_tanh: GELU's tanh form, as in GPT-2")
]

MAX_PARAMETERS = 10**10
"""A hundred times the largest intended model: a larger size is a typo or a hostile file."""


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ValueError unless ``divisor`` divides ``value``; the message suggests the nearest divisor."""
    if value % divisor:
        nearest = min((d for d in range(1, value + 1) if value % d == 0), key=lambda d: (abs(d - divisor), d))
        raise ValueError(
            f"{name} = {value} is not a multiple of {divisor_name} = {divisor}; try {divisor_name} = {nearest}"
        )


def require_even(name: str, value: float, reason: str) -> None:
    """Raise ValueError unless ``value`` is an even integer of at least 2."""
    if value < 2 or value % 2:
        raise ValueError(f"{name} = {value:g} is not an even number; {reason}")


def require_max_parameters(table: ParameterTable) -> None:
    """Raise ValueError if a model has more than MAX_PARAMETERS parameters."""
    parameters = count(table)
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"the model has {parameters:,} parameters, more than {MAX_PARAMETERS:,}; try a smaller dim")
