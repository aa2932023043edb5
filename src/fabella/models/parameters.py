"""Parameter table: name, shape, initialization and weight decay of every weight, independent of the engine.

``Config.parameters()`` maps the name of a weight to its :class:`ParameterSpec`. The table alone determines the exact
parameter counts, the initial weights in both engines, the weight-decay mask and the validation of checkpoints.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal distribution with mean 0."""

    std: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform distribution between ``-bound`` and ``bound``."""

    bound: float


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value everywhere."""

    value: float


@dataclass(frozen=True, slots=True)
class HalfLives:
    """Biases b of gates z = σ(b), so that a state h_t = (1 − z)·h_{t−1} + … halves after some number of tokens.

    These half-lives grow from ``shortest`` to ``longest`` in geometric steps over the channels.
    """

    shortest: float
    longest: float


Initialization = Normal | Uniform | Constant | HalfLives


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """One weight. A matrix is stored as [outputs, inputs], for ``y = x @ weight.T``; an embedding has a row per id."""

    shape: tuple[int, ...]
    init: Initialization
    decay: bool
    embedding: bool = False
    """Whether the weight has a row per id or position (embeddings and output heads)."""

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


ParameterTable = Mapping[str, ParameterSpec]


# Rows of a table. Weight decay follows the rule of GPT-2's successors: every weight with two dimensions decays, also
# embeddings and output heads; biases and the scales of norms do not.


def linear(
    name: str, outputs: int, inputs: int, init: Initialization, *, bias: bool = False
) -> dict[str, ParameterSpec]:
    """Return the rows of a linear layer ``y = x @ weight.T (+ bias)``; the bias is initialized to 0."""
    rows = {f"{name}.weight": ParameterSpec(shape=(outputs, inputs), init=init, decay=True)}
    if bias:
        rows[f"{name}.bias"] = ParameterSpec(shape=(outputs,), init=Constant(0.0), decay=False)
    return rows


def norm(name: str, dim: int, *, bias: bool = False) -> dict[str, ParameterSpec]:
    """Return the rows of a norm: its scale, initialized to 1, and with ``bias`` its offset, initialized to 0."""
    rows = {f"{name}.weight": ParameterSpec(shape=(dim,), init=Constant(1.0), decay=False)}
    if bias:
        rows[f"{name}.bias"] = ParameterSpec(shape=(dim,), init=Constant(0.0), decay=False)
    return rows


def vector(name: str, size: int, init: Initialization) -> dict[str, ParameterSpec]:
    """Return the row of a vector [size] that does not decay."""
    return {name: ParameterSpec(shape=(size,), init=init, decay=False)}


def embedding(name: str, rows: int, dim: int, init: Initialization) -> dict[str, ParameterSpec]:
    """Return the row of an embedding or an output head: a matrix with a row per id or position."""
    return {f"{name}.weight": ParameterSpec(shape=(rows, dim), init=init, decay=True, embedding=True)}


def prefixed(prefix: str, table: ParameterTable) -> dict[str, ParameterSpec]:
    """Return the rows under the name of a module: ``prefixed("blocks.0", table)``."""
    return {f"{prefix}.{name}": parameter for name, parameter in table.items()}


def count(table: ParameterTable) -> int:
    """Return the number of parameters; tied weights have one name and count once."""
    return sum(parameter.size for parameter in table.values())


def count_non_embedding(table: ParameterTable) -> int:
    """Return the number of parameters outside embeddings and output heads."""
    return sum(parameter.size for parameter in table.values() if not parameter.embedding)


def block_matrices(table: ParameterTable) -> list[str]:
    """Return the names of the matrices in the blocks, without embeddings and output heads: those that Muon updates."""
    return [
        name
        for name, parameter in table.items()
        if name.startswith("blocks.") and len(parameter.shape) == 2 and not parameter.embedding
    ]


def matching_parameters(table: ParameterTable, pattern: str) -> list[str]:
    """Return the names that a pattern matches: ``*`` stands for any characters, dots included, ``?`` for one."""
    return [name for name in table if fnmatchcase(name, pattern)]


def trainable_parameters(table: ParameterTable, freeze: Sequence[str]) -> ParameterTable:
    """Return the rows that none of the patterns ``freeze`` matches, in the order of the table."""
    frozen = {name for pattern in freeze for name in matching_parameters(table, pattern)}
    return {name: parameter for name, parameter in table.items() if name not in frozen} if frozen else table


def initial_weights(table: ParameterTable, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return the initial weights, equal in all engines.

    Each weight has its own random stream, keyed by (seed, name): adding a layer changes no other weight.
    """
    return {name: _draw(parameter, _random_stream(seed, name)) for name, parameter in table.items()}


def _random_stream(seed: int, name: str) -> np.random.Generator:
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
        case HalfLives(shortest, longest):
            # A state that keeps the share 1 − z of itself per token has halved after n tokens if (1 − z)ⁿ = ½.
            forgotten = 1.0 - 0.5 ** (1.0 / np.geomspace(shortest, longest, math.prod(parameter.shape)))
            return np.log(forgotten / (1.0 - forgotten)).astype(np.float32).reshape(parameter.shape)
