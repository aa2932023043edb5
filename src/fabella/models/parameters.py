"""The parameter table: what a family's weights are, before any engine exists.

``Config.parameters()`` maps a weight's name to a :class:`Parameter`. From the table alone come the exact
counts, the first weights of both engines, the weight-decay mask and the check of every checkpoint.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Normal:
    """Gaussian of mean 0."""

    std: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Even between ``-bound`` and ``bound``."""

    bound: float


@dataclass(frozen=True, slots=True)
class Constant:
    value: float


Initialisation = Normal | Uniform | Constant


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """One weight. Matrices are stored output × input, as ``y = x @ weight.T``; embeddings row per id."""

    shape: tuple[int, ...]
    init: Initialisation
    decay: bool
    embedding: bool = False
    """Whether the weight grows with the vocabulary or the number of positions (embeddings, read-out heads)."""

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


ParameterTable = Mapping[str, ParameterSpec]


# Rows of a table. Weight decay follows the rule of GPT-2's successors: every weight with two dimensions decays,
# embeddings and read-out heads among them; biases and the scales of norms never do.


def linear(
    name: str, outputs: int, inputs: int, init: Initialisation, *, bias: bool = False
) -> dict[str, ParameterSpec]:
    """``y = x @ weight.T (+ bias)``; a bias begins at 0."""
    rows = {f"{name}.weight": ParameterSpec(shape=(outputs, inputs), init=init, decay=True)}
    if bias:
        rows[f"{name}.bias"] = ParameterSpec(shape=(outputs,), init=Constant(0.0), decay=False)
    return rows


def norm(name: str, dim: int, *, bias: bool = False) -> dict[str, ParameterSpec]:
    """A norm's scale, which begins at 1, and, where it has one, its offset, which begins at 0."""
    rows = {f"{name}.weight": ParameterSpec(shape=(dim,), init=Constant(1.0), decay=False)}
    if bias:
        rows[f"{name}.bias"] = ParameterSpec(shape=(dim,), init=Constant(0.0), decay=False)
    return rows


def embedding(name: str, rows: int, dim: int, init: Initialisation) -> dict[str, ParameterSpec]:
    """One row for each id or position; also a read-out head, which has a row for each id."""
    return {f"{name}.weight": ParameterSpec(shape=(rows, dim), init=init, decay=True, embedding=True)}


def prefixed(prefix: str, table: ParameterTable) -> dict[str, ParameterSpec]:
    """The same rows, inside a part of the network: ``within("blocks.0", table)``."""
    return {f"{prefix}.{name}": parameter for name, parameter in table.items()}


def count(table: ParameterTable) -> int:
    """Number of all scalars; tied weights have one name and count once."""
    return sum(parameter.size for parameter in table.values())


def count_non_embedding(table: ParameterTable) -> int:
    """Number of scalars outside embeddings and read-out heads: 'the blocks'."""
    return sum(parameter.size for parameter in table.values() if not parameter.embedding)


def block_matrices(table: ParameterTable) -> list[str]:
    """Names of the matrices inside the blocks, without embeddings and read-out heads: those that Muon is made for."""
    return [
        name
        for name, parameter in table.items()
        if name.startswith("blocks.") and len(parameter.shape) == 2 and not parameter.embedding
    ]


def initial_weights(table: ParameterTable, seed: int) -> dict[str, NDArray[np.float32]]:
    """The first weights, the same in every engine.

    Each weight has a random stream of its own, keyed by (seed, name): adding a layer changes no other weight.
    """
    return {name: _draw(parameter, _stream(seed, name)) for name, parameter in table.items()}


def _stream(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _draw(parameter: ParameterSpec, random: np.random.Generator) -> NDArray[np.float32]:
    match parameter.init:
        case Normal(std):
            return random.standard_normal(parameter.shape, dtype=np.float32) * np.float32(std)
        case Uniform(bound):
            return (random.random(parameter.shape, dtype=np.float32) * 2 - 1) * np.float32(bound)
        case Constant(value):
            return np.full(parameter.shape, value, dtype=np.float32)
