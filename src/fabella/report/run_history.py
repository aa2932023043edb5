"""A run as it is told: its measurements, samples, settings and evaluation, read from its folder."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fabella.errors import CheckpointError
from fabella.models.flops import flops_per_token
from fabella.run_config.run import RunConfig
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir

METRICS, SAMPLES, EVALUATION = "metrics.jsonl", "samples.jsonl", "evaluation.json"
X_AXES = ("step", "tokens", "seconds", "flops")
"""What a curve may be drawn against: optimizer steps, tokens learned from, time of training, its arithmetic."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One run. Rows are as in its ``metrics.jsonl``, each with all of ``AGAINST``."""

    name: str
    path: Path
    run: RunConfig
    manifest: Mapping[str, Any]
    training: Sequence[Row]
    validation: Sequence[Row]
    final: Row | None
    """The score on all held-out text, once the run has ended."""
    samples: Sequence[Row]
    evaluation: Mapping[str, Any] | None
    remarks: Sequence[str]

    @property
    def last(self) -> Row:
        """The newest measurement."""
        ended = [self.final] if self.final else []
        return max((*self.training[-1:], *self.validation[-1:], *ended), key=lambda row: row["step"])


def read(path: Path) -> RunHistory:
    """The run in ``path``. Raises CheckpointError where it is none, has measured nothing yet, or a line is damaged."""
    folder = RunDir.open(path)
    rows = read_rows(path / METRICS)
    training = [row for row in rows if row.get("kind") == "train" and "step" in row]
    if not training:
        raise CheckpointError(
            f"{path} has measured nothing yet: its {METRICS} has no line of training.",
            hint="Wait for its first steps, or give the folder of another run.",
        )
    place = _place(training, folder.run)
    finals = [row for row in rows if row.get("kind") == "final"]
    evaluation, remark = _evaluation(path / EVALUATION)
    broken = sum(not _is_number(row.get("loss")) for row in rows if row.get("kind") in {"train", "validation"})
    remarks = [remark] if remark else []
    if broken:
        remarks.append(
            f"{broken:,} measured losses are not numbers: the training went wrong there, and the curve has gaps."
        )
    return RunHistory(
        name=path.resolve().name,
        path=path,
        run=folder.run,
        manifest=folder.manifest,
        training=[place(row) for row in training],
        validation=[place(row) for row in rows if row.get("kind") == "validation" and "step" in row],
        final=place(finals[-1]) if finals else None,
        samples=[row for row in read_rows(path / SAMPLES) if row.get("kind") == "sample"],
        evaluation=evaluation,
        remarks=remarks,
    )


def _place(training: Sequence[Row], run: RunConfig) -> Callable[[Row], Row]:
    """Gives a row where it stands in tokens, seconds and operations: between and behind logged steps in proportion."""
    steps = [float(row["step"]) for row in training]
    operations = flops_per_token(run.model, run.data.sequences.length)

    measured = {key: [float(row.get(key, math.nan)) for row in training] for key in ("tokens", "seconds")}

    def at(step: float, key: str) -> float:
        values = measured[key]
        behind = max(0.0, step - steps[-1]) * (values[-1] / steps[-1] if steps[-1] else 0.0)
        return float(np.interp(step, steps, values)) + behind

    def place(row: Row) -> Row:
        step = float(row["step"])
        tokens = at(step, "tokens")
        return {**row, "tokens": tokens, "seconds": at(step, "seconds"), "flops": tokens * operations}

    return place


def _evaluation(path: Path) -> tuple[Mapping[str, Any] | None, str]:
    """What ``fabella evaluate`` has measured, or a remark why it cannot be shown."""
    if not path.is_file():
        return None, ""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("format") == 1:
        return found, ""
    return None, f"{path.name} is damaged, or of another version; fabella evaluate writes it anew."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def names(histories: Sequence[RunHistory]) -> list[str]:
    """A name for each run that no other has: as much of its path as is needed."""
    paths = [history.path.resolve() for history in histories]
    shared = os.path.commonpath([path.parent for path in paths])
    own = [path.name for path in paths]
    return own if len(set(own)) == len(own) else [os.path.relpath(path, shared) for path in paths]


def settings(run: RunConfig) -> dict[str, str]:
    """Every setting by its dotted name, as it is written on a command line."""
    found: dict[str, str] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        else:
            found[name] = json.dumps(value, ensure_ascii=False)

    walk(run.model_dump(mode="json"), "")
    return found


def differing(histories: Sequence[RunHistory]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs: name → the value in each; a dash where one has none."""
    each = [settings(history.run) for history in histories]
    every = dict.fromkeys(name for one in each for name in one)
    rows = {name: [one.get(name, "-") for one in each] for name in every}
    return {name: found for name, found in rows.items() if len(set(found)) > 1 and not name.startswith("about.")}


def data_of(history: RunHistory) -> str:
    """The fingerprint of the data that a run learned from."""
    return str(history.manifest.get("data", {}).get("fingerprint", ""))
