"""The metrics of a run as columns, for pandas and matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import CheckpointError, UsageError
from fabella.runs.metrics_log import read_rows
from fabella.storage import escaped


def read_metrics(run: str | Path, kind: str = "train") -> dict[str, NDArray[Any]]:
    """Return the rows of a kind in the metrics of a run as columns: name → array with a value per row.

    ``kind``: ``train``, ``validation``, ``validation_also``, ``final``, ``grad_spike``, ``divergence``, ``rollback``,
    or ``sample``. A number that a row lacks, or that was not finite, is NaN; a text is the empty string. The result is
    what ``pandas.DataFrame`` takes. Raises CheckpointError without a run, UsageError without rows of this kind.
    """
    path = Path(run)
    if not (path / "config.yaml").is_file():
        raise CheckpointError(f"No run directory at {escaped(str(path), 500)}.", hint="Give the directory of a run.")
    rows = read_rows(path / "metrics.jsonl") + read_rows(path / "samples.jsonl")
    chosen = [row for row in rows if row.get("kind") == kind]
    if not chosen:
        kinds = dict.fromkeys(str(row.get("kind")) for row in rows)
        raise UsageError(
            f"The metrics of {escaped(str(path), 500)} have no rows of kind {kind!r}.",
            hint=f"It has rows of these kinds: {', '.join(kinds)}." if kinds else "Train it first.",
        )
    names = dict.fromkeys(name for row in chosen for name in row if name != "kind")
    return {name: _column([row.get(name) for row in chosen]) for name in names}


def _column(values: list[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    if all(type(value) is int for value in values):
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
