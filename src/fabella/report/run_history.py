"""History of a run for reports: metrics, samples, settings and evaluation, read from its run directory."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fabella.config.scoring import validation_rule
from fabella.errors import CheckpointError
from fabella.models.flops import flops_per_token
from fabella.run_config.run import RunConfig
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dataset import ALSO
from fabella.runs.run_dir import RunDir

METRICS, SAMPLES, EVALUATION, EXAM = "metrics.jsonl", "samples.jsonl", "evaluation.json", "exam.json"
EVALUATION_FORMAT, EXAM_FORMAT = 2, 1
"""Formats of the results of ``fabella evaluate`` that a report can show."""
X_AXES = ("step", "tokens", "seconds", "flops")
"""X-axes of a curve: training steps, trained tokens, training time in seconds, floating-point operations."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunHistory:
    """One run. Rows are those of its ``metrics.jsonl``, each with all of ``X_AXES``."""

    name: str
    path: Path
    run: RunConfig
    manifest: Mapping[str, Any]
    training: Sequence[Row]
    validation: Sequence[Row]
    other_validation: Mapping[str, Sequence[Row]]
    """Validations on the texts of ``validation.also``, by the name of the text."""
    final: Row | None
    """Score on all validation text; None until the run has ended, again after it was extended."""
    final_average: Row | None
    """The same, of the average of the weights; None for a run without one."""
    samples: Sequence[Row]
    evaluation: Mapping[str, Any] | None
    exam: Mapping[str, Any] | None
    warnings: Sequence[str]

    @property
    def rule(self) -> str:
        """Name of the rule by which validations and the final score are computed."""
        return validation_rule(self.run.data.sequences).name

    @property
    def last(self) -> Row:
        """Latest row."""
        final = [self.final] if self.final else []
        return max((*self.training[-1:], *self.validation[-1:], *final), key=lambda row: row["step"])


def read(path: Path) -> RunHistory:
    """Read the run in ``path``. Raises CheckpointError if it is no run, has no metrics yet, or has a damaged line."""
    run_dir = RunDir.open(path)
    rows = read_rows(path / METRICS)
    training = [row for row in rows if row.get("kind") == "train" and "step" in row]
    if not training:
        raise CheckpointError(
            f"{path} has no metrics yet: its {METRICS} has no training row.",
            hint="Wait for the first logged step, or use another run directory.",
        )
    with_x_axes = _interpolator(training, run_dir.run)
    latest = max(row["step"] for row in rows if row.get("kind") in {"train", "validation"} and "step" in row)
    ends = {str(row.get("kind")): with_x_axes(row) for row in rows if row.get("step", -1) >= latest}
    evaluation, warning = _evaluation(path / EVALUATION, EVALUATION_FORMAT)
    exam, exam_warning = _evaluation(path / EXAM, EXAM_FORMAT)
    broken = sum(not _is_number(row.get("loss")) for row in rows if row.get("kind") in {"train", "validation"})
    warnings = [each for each in (warning, exam_warning) if each]
    warnings += [str(row.get("text")) for row in rows if row.get("kind") == "divergence"]
    if broken:
        warnings.append(f"{broken:,} losses are not finite; the curve has gaps there.")
    return RunHistory(
        name=path.resolve().name,
        path=path,
        run=run_dir.run,
        manifest=run_dir.manifest,
        training=[with_x_axes(row) for row in training],
        validation=[with_x_axes(row) for row in rows if row.get("kind") == "validation" and "step" in row],
        other_validation=_by_name([with_x_axes(row) for row in rows if row.get("kind") == ALSO and "step" in row]),
        final=ends.get("final"),
        final_average=ends.get("final_average"),
        samples=[row for row in read_rows(path / SAMPLES) if row.get("kind") == "sample"],
        evaluation=evaluation,
        exam=exam,
        warnings=warnings,
    )


def _interpolator(training: Sequence[Row], run: RunConfig) -> Callable[[Row], Row]:
    """Return a function that adds interpolated tokens, seconds and FLOPs to a row; linear after the last step."""
    steps = [float(row["step"]) for row in training]
    flops = flops_per_token(run.model, run.data.sequences.length)

    measured = {key: [float(row.get(key, math.nan)) for row in training] for key in ("tokens", "seconds")}

    def at(step: float, key: str) -> float:
        values = measured[key]
        after = max(0.0, step - steps[-1]) * (values[-1] / steps[-1] if steps[-1] else 0.0)
        return float(np.interp(step, steps, values)) + after

    def with_x_axes(row: Row) -> Row:
        step = float(row["step"])
        tokens = at(step, "tokens")
        return {**row, "tokens": tokens, "seconds": at(step, "seconds"), "flops": tokens * flops}

    return with_x_axes


def _by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    names = dict.fromkeys(str(row.get("name")) for row in rows)
    return {name: [row for row in rows if str(row.get("name")) == name] for name in names}


def _evaluation(path: Path, number: int) -> tuple[Mapping[str, Any] | None, str]:
    """Return the result of ``fabella evaluate`` of format ``number``, or a warning why it cannot be shown."""
    if not path.is_file():
        return None, ""
    try:
        result = json.loads(path.read_bytes())
    except ValueError:
        result = None
    if isinstance(result, dict) and result.get("format") == number:
        return result, ""
    how = " with --suite small" if path.name == EXAM else ""
    return None, f"{path.name} is damaged or of another version; fabella evaluate writes it again{how}."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def names(histories: Sequence[RunHistory]) -> list[str]:
    """Return a unique name for each run: the name of its directory, or its relative path if names repeat."""
    paths = [history.path.resolve() for history in histories]
    parent = os.path.commonpath([path.parent for path in paths])
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [os.path.relpath(path, parent) for path in paths]


def settings(run: RunConfig) -> dict[str, str]:
    """Return every setting: its dotted key → its value as JSON, as on the command line."""
    flat: dict[str, str] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        else:
            flat[name] = json.dumps(value, ensure_ascii=False)

    walk(run.model_dump(mode="json"), "")
    return flat


def differing(histories: Sequence[RunHistory]) -> dict[str, list[str]]:
    """Return the settings that differ between the runs: key → the value in each, a dash if a run has none."""
    runs = [settings(history.run) for history in histories]
    keys = dict.fromkeys(key for run in runs for key in run)
    rows = {key: [run.get(key, "-") for run in runs] for key in keys}
    return {name: values for name, values in rows.items() if len(set(values)) > 1 and not name.startswith("about.")}


def data_of(history: RunHistory) -> str:
    """Return the fingerprint of the dataset of a run."""
    return str(history.manifest.get("data", {}).get("fingerprint", ""))
