"""Validation of checkpoint contents against the parameter table: weights, optimizer moments, ``state.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.engine.weight_average import AVERAGED
from fabella.errors import CheckpointError, NumericsError
from fabella.models.parameters import ParameterTable
from fabella.runs.run_dir import require_format
from fabella.storage import escaped

MAX_NAMED = 5
"""Differences named in an error: enough to see the pattern."""

Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[Any]]


def checked_weights(weights: Arrays, table: ParameterTable, *, where: str) -> Arrays:
    """Return the weights in the order of the table. Raises CheckpointError naming the first five that differ."""
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


def checked_average(
    average: Arrays, table: ParameterTable, scalars: Mapping[str, int | float], *, where: str
) -> Arrays:
    """Return the average of the trained weights, which ``table`` describes, in its order; empty if there is none.

    ``scalars``: those of the state, which say how many weights were averaged. Raises CheckpointError if they count
    weights and there is no average, or the other way round, and naming the first five arrays that differ.
    """
    count = scalars.get(AVERAGED, 0)
    if bool(average) != (count > 0):
        raise CheckpointError(f"{where}: {'an' if average else 'no'} average of {count:,} weights.")
    return checked_weights(average, table, where=where) if average else {}


def moment_kinds(moments: Arrays) -> list[str]:
    """Return the kinds of moment, ``first``, ``second`` …, that are present."""
    return sorted({name.partition(".")[0] for name in moments})


def require_finite(arrays: Arrays, *, where: str) -> None:
    """Raise NumericsError naming the first array with NaN or infinity, from which training could not resume."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NumericsError(
                f"{where}: {name} is not finite: the training has diverged. The checkpoint was not saved.",
                hint="Resume from the checkpoint before it with a lower optimizer.lr or optimizer.max_grad_norm.",
            )


def _check_against(arrays: Arrays, expected: Mapping[str, Shape], where: str) -> Arrays:
    wrong = [f"{name} is missing" for name in expected if name not in arrays]
    wrong += [f"{escaped(name)} is not a parameter of this model" for name in arrays if name not in expected]
    for name, shape in expected.items():
        if name in arrays and arrays[name].shape != shape:
            wrong.append(f"{name} is {_sizes(arrays[name].shape)}, not {_sizes(shape)}")
        elif name in arrays and arrays[name].dtype != np.float32:
            wrong.append(f"{name} is {arrays[name].dtype}, not float32")
    if wrong:
        more = f"; and {len(wrong) - MAX_NAMED:,} more" if len(wrong) > MAX_NAMED else ""
        raise CheckpointError(f"{where} does not match the model: {'; '.join(wrong[:MAX_NAMED])}{more}.")
    return {name: arrays[name] for name in expected}


def _sizes(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape) or "a scalar"


def parse_state(data: bytes, *, step: int, where: str) -> dict[str, Any]:
    """Return the checked values of ``state.json``: format, step, optimizer_state, scalars, progress.

    Raises CheckpointError.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: damaged: not JSON.") from None
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise CheckpointError(f"{where}: not the state of a checkpoint: it has no format number.")
    require_format(values["format"], where=where)
    kinds, scalars, progress = (values.get(key) for key in ("optimizer_state", "scalars", "progress"))
    valid = (
        isinstance(kinds, list)
        and all(isinstance(kind, str) for kind in kinds)
        and isinstance(scalars, dict)
        and all(_is_number(value) for value in scalars.values())
        and isinstance(progress, dict)
        and all(isinstance(value, str) or _is_number(value) for value in progress.values())
    )
    if not valid:
        raise CheckpointError(f"{where}: damaged: optimizer_state, scalars or progress is missing or of another type.")
    if values.get("step") != step:
        raise CheckpointError(f"{where} is of step {escaped(str(values.get('step')))}, not {step}.")
    return values


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
