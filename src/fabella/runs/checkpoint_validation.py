"""What a checkpoint must hold: the weights of the family's parameter table, their moments, and a few numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import CheckpointError, NumericsError
from fabella.models.parameters import ParameterTable
from fabella.storage import escaped

FORMAT = 2
"""Format number of checkpoints. Others are refused: nothing was released with an older one."""
NAMED = 5
"""Differences told in an error: enough to see the pattern."""

Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[Any]]


def checked_weights(weights: Arrays, table: ParameterTable, *, where: str) -> Arrays:
    """The weights in the table's order. Raises CheckpointError naming the first five that differ from the table."""
    return _check_against(weights, {name: parameter.shape for name, parameter in table.items()}, where)


def checked_moments(
    moments: Arrays, spec: Mapping[str, Shape], *, where: str, kinds: Sequence[str] | None = None
) -> Arrays:
    """Return the optimizer state in the order of ``spec``, the optimizer's ``state_spec``.

    ``kinds``: the kinds of moment (``first``, ``second`` …) that must be present; by default those that are. Raises
    CheckpointError naming the first five arrays that differ from ``spec``.
    """
    required = moment_kinds(moments) if kinds is None else kinds
    expected = {name: shape for name, shape in spec.items() if name.partition(".")[0] in required}
    return _check_against(moments, expected, where)


def moment_kinds(moments: Arrays) -> list[str]:
    """Return the kinds of moment, ``first``, ``second`` …, that are present."""
    return sorted({name.partition(".")[0] for name in moments})


def require_finite(arrays: Arrays, *, where: str) -> None:
    """Raises NumericsError naming the first array that holds NaN or infinity: nothing could go on from it."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NumericsError(
                f"{where}: {name} is not finite, the training has diverged; it was not saved.",
                hint="Resume from the checkpoint before it with a lower optimizer.lr, or a smaller optimizer.max_grad_norm.",
            )


def _check_against(arrays: Arrays, expected: Mapping[str, Shape], where: str) -> Arrays:
    wrong = [f"{name} is missing" for name in expected if name not in arrays]
    wrong += [f"{escaped(name)} is none of this model's" for name in arrays if name not in expected]
    for name, shape in expected.items():
        if name in arrays and arrays[name].shape != shape:
            wrong.append(f"{name} is {_sizes(arrays[name].shape)}, not {_sizes(shape)}")
        elif name in arrays and arrays[name].dtype != np.float32:
            wrong.append(f"{name} is {arrays[name].dtype}, not float32")
    if wrong:
        more = f"; and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise CheckpointError(f"{where} does not fit the model: {'; '.join(wrong[:NAMED])}{more}.")
    return {name: arrays[name] for name in expected}


def _sizes(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape) or "a single number"


def state_of(data: bytes, *, step: int, where: str) -> dict[str, Any]:
    """``state.json``, its shape checked: format, step, moments, numbers, progress. Raises CheckpointError."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: damaged, it is not JSON.") from None
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise CheckpointError(f"{where}: no state of a checkpoint: it names no format.")
    if values["format"] != FORMAT:
        raise CheckpointError(
            f"{where} was written in format {values['format']}; this version of Fabella reads format {FORMAT}.",
            hint="Use the version of Fabella that wrote it, or train the model again.",
        )
    moments, numbers, progress = (values.get(key) for key in ("moments", "numbers", "progress"))
    sound = (
        isinstance(moments, list)
        and all(isinstance(kind, str) for kind in moments)
        and isinstance(numbers, dict)
        and all(_is_number(value) for value in numbers.values())
        and isinstance(progress, dict)
        and all(isinstance(value, str) or _is_number(value) for value in progress.values())
    )
    if not sound:
        raise CheckpointError(f"{where}: damaged: moments, numbers or progress are missing or of another kind.")
    if values.get("step") != step:
        raise CheckpointError(f"{where}: it is of step {escaped(str(values.get('step')))}, not {step}.")
    return values


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
