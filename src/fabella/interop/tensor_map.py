"""Names and layouts of weights in another format, as rows that work in both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fabella.errors import CheckpointError, NumericsError
from fabella.models.parameters import ParameterTable
from fabella.storage import escaped

Weights = Mapping[str, NDArray[np.float32]]
MAX_NAMED = 5
"""Differences named in an error."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of the other format, and the weights of the parameter table that it contains.

    Several weights are joined along their outputs: one after another, or ``per_head`` (query, key and value of head 0,
    then of head 1 …, with this number of heads). ``transposed``: the tensor is [inputs, outputs]. ``rotary_heads``: in
    each of so many heads, dimension i is stored next to i + E/2, as programs need it that rotate neighbors.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    per_head: int = 0
    rotary_heads: int = 0


def row(theirs: str, *ours: str, **layout: Any) -> TensorRow:
    """Return the row of one tensor."""
    return TensorRow(theirs, ours, **layout)


def linear_rows(theirs: str, *ours: str, bias: bool = False, **layout: Any) -> list[TensorRow]:
    """Return the rows of a linear layer: weight and, with ``bias``, bias, which is never transposed."""
    rows = [row(f"{theirs}.weight", *(f"{name}.weight" for name in ours), **layout)]
    if bias:
        layout = {key: value for key, value in layout.items() if key != "transposed"}
        rows.append(row(f"{theirs}.bias", *(f"{name}.bias" for name in ours), **layout))
    return rows


def pack(rows: Sequence[TensorRow], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of the other format. Every weight must be in exactly one row."""
    used = [name for item in rows for name in item.ours]
    assert sorted(used) == sorted(weights), "the rows and the parameter table have other names"
    return {item.theirs: _packed(item, [weights[name] for name in item.ours]) for item in rows}


def unpack(
    rows: Sequence[TensorRow],
    tensors: Mapping[str, NDArray[Any]],
    table: ParameterTable,
    *,
    where: str,
    ignored: Sequence[str] = (),
) -> dict[str, NDArray[np.float32]]:
    """Return the weights of the parameter table in float32.

    ``ignored``: endings of names that are no weights, for example saved masks. Raises CheckpointError naming the first
    tensors that are missing, unknown or of another shape, NumericsError for one that is not finite.
    """
    expected = {item.theirs: _shape(item, table) for item in rows}
    extra = [name for name in tensors if name not in expected and not name.endswith(tuple(ignored))]
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{escaped(name)} is not a tensor of this architecture" for name in extra]
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            wrong.append(f"{name} is {_sizes(tensors[name].shape)}, not {_sizes(shape)}")
    if wrong:
        more = f"; and {len(wrong) - MAX_NAMED:,} more" if len(wrong) > MAX_NAMED else ""
        raise CheckpointError(
            f"The tensors of {where} do not fit its config: {'; '.join(wrong[:MAX_NAMED])}{more}.",
            hint="Get the files again, all from the same model.",
        )
    weights: dict[str, NDArray[np.float32]] = {}
    for item in rows:
        tensor = np.asarray(tensors[item.theirs], dtype=np.float32)
        if not np.isfinite(tensor).all():
            raise NumericsError(
                f"{where}: {item.theirs} has values that are not finite.", hint="Get the model again from its source."
            )
        parts = _unpacked(item, tensor, [table[name].shape[0] for name in item.ours])
        weights.update(zip(item.ours, parts, strict=True))
    return {name: weights[name] for name in table}


def _packed(item: TensorRow, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if item.rotary_heads:
        parts = [_swap_halves(part, item.rotary_heads, to="neighbors") for part in parts]
    if item.per_head:
        split = [part.reshape(item.per_head, -1, *part.shape[1:]) for part in parts]
        joined = np.concatenate(split, axis=1).reshape(-1, *parts[0].shape[1:])
    else:
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(joined.T if item.transposed else joined)


def _unpacked(item: TensorRow, tensor: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    whole = tensor.T if item.transposed else tensor
    if item.per_head:
        heads = whole.reshape(item.per_head, -1, *whole.shape[1:])
        ends = np.cumsum([size // item.per_head for size in sizes])[:-1]
        parts = [part.reshape(-1, *whole.shape[1:]) for part in np.split(heads, ends, axis=1)]
    else:
        parts = np.split(whole, np.cumsum(sizes)[:-1])
    if item.rotary_heads:
        parts = [_swap_halves(part, item.rotary_heads, to="halves") for part in parts]
    return [np.ascontiguousarray(part) for part in parts]


def _swap_halves(array: NDArray[np.float32], heads: int, *, to: Literal["neighbors", "halves"]) -> NDArray[np.float32]:
    """Reorder the outputs of each head: from (i, i + E/2) to neighbors, or back."""
    pairs = (heads, 2, -1) if to == "neighbors" else (heads, -1, 2)
    return array.reshape(*pairs, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _shape(item: TensorRow, table: ParameterTable) -> tuple[int, ...]:
    shapes = [table[name].shape for name in item.ours]
    joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return joined[::-1] if item.transposed else joined


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape) or "a scalar"
