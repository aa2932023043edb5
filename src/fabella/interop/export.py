"""Export a run: write, load with the target, compare, and only then move into place."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import fabella
from fabella.errors import NumericsError, StorageError, UsageError
from fabella.interop.comparison import Comparison
from fabella.interop.comparison_torch import compare
from fabella.interop.formats.export_format import export_format, require_packages, require_precision
from fabella.interop.source import ExportSource, open_run, open_source
from fabella.runs.checkpoint import of_average
from fabella.runs.run_dir import step_name
from fabella.storage import atomic_dir, require_writable, storage_errors, verify_dir, write_chunks
from fabella.storage.messages import escaped_path

ALL = "all"
"""Value of ``--checkpoint`` that exports every checkpoint of a run."""
RECORD = "export.json"
"""File of an export that names its run, checkpoint, format and precision, with the measured differences."""
MAX_RECORD_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An export that equals its run."""

    path: Path
    format: str
    step: int
    comparison: Comparison
    bytes: int
    """Size of all files."""
    weights: str = "trained"
    """trained, or average for their average."""
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return {
            "path": str(self.path), "format": self.format, "step": self.step, "weights": self.weights,
            "bytes": self.bytes,
            "comparison": self.comparison.as_json(), "warnings": list(self.warnings),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedCheckpoints:
    """A directory with one export per checkpoint of a run, named ``step-00001000``; each equals its checkpoint."""

    path: Path
    exports: tuple[ExportResult, ...]
    """In the order of their steps."""

    @property
    def bytes(self) -> int:
        """Size of all files of the exports."""
        return sum(result.bytes for result in self.exports)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all exports."""
        return tuple(warning for result in self.exports for warning in result.warnings)

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        exports = [result.as_json() for result in self.exports]
        return {"path": str(self.path), "bytes": self.bytes, "exports": exports, "warnings": list(self.warnings)}


def export(
    run: str | Path,
    *,
    to: str,
    out: str | Path = "",
    precision: str = "",
    checkpoint: str | int = "best",
    weights: str = "trained",
    report: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Export a checkpoint of the run directory ``run`` to the new directory ``out``, by default ``exports/RUN-TO``.

    ``to`` is the format: ``hf``, ``gguf`` … ``precision``: storage type of the weights; empty for the format's default.
    ``weights``: trained, or average for their average. ``report`` gets one sentence per phase.

    Raises UsageError if the format cannot hold this model or a package is missing, NumericsError if the export differs
    from the run; then nothing is written.
    """
    if checkpoint == ALL:
        raise UsageError("fabella.export exports one checkpoint.", hint="Use fabella.export_checkpoints.")
    module, precision = _prepared(to, precision)
    target = _target(run, to, out)
    return _written(open_source(Path(run), checkpoint, weights), module, to, precision, target, report)


def export_checkpoints(
    run: str | Path,
    *,
    to: str,
    out: str | Path = "",
    precision: str = "",
    weights: str = "trained",
    report: Callable[[str], None] = lambda text: None,
) -> ExportedCheckpoints:
    """Export every checkpoint of a run to the new directory ``out``, by default ``exports/RUN-TO-all``.

    Each has its own directory, named as the checkpoint: ``out/step-00001000`` is what ``export`` writes for step 1,000.
    Raises the errors of ``export``, and StorageError for a damaged checkpoint; then nothing is written.
    """
    module, precision = _prepared(to, precision)
    target = _target(run, f"{to}-{ALL}", out)
    steps = open_run(Path(run)).steps() or [open_source(Path(run), "latest").step]  # without a checkpoint, its error
    results: list[ExportResult] = []
    with atomic_dir(target) as temp:
        for number, step in enumerate(steps, 1):
            report(f"Checkpoint {number} of {len(steps)}:")
            source = open_source(Path(run), step, weights)
            result = _written(source, module, to, precision, temp / step_name(step), report)
            results.append(dataclasses.replace(result, path=target / step_name(step)))
    return ExportedCheckpoints(path=target, exports=tuple(results))


def _prepared(to: str, precision: str) -> tuple[Any, str]:
    """Return the module of a format and the precision to write, after checking the packages that it needs."""
    module = export_format(to)
    precision = require_precision(to, module, precision)
    require_packages(to, module.PACKAGES, getattr(module, "EXTRA", "export"))
    return module, precision


def _target(run: str | Path, suffix: str, out: str | Path) -> Path:
    """Return the directory to write. Raises StorageError if it exists or cannot be written."""
    target = Path(out) if out else Path("exports") / f"{Path(run).resolve().name}-{suffix}"
    require_writable(target, "--out")
    if target.exists():
        raise StorageError(f"{escaped_path(target)} exists already.", hint="Remove it, or choose another --out.")
    return target


def _written(
    source: ExportSource, module: Any, to: str, precision: str, target: Path, report: Callable[[str], None]
) -> ExportResult:
    """Write one checkpoint to the new directory ``target`` and compare it; nothing is left if it differs."""
    with atomic_dir(target) as temp, storage_errors(target, "writing the export"):
        report(f"Writing step {source.step:,}{of_average(source.weights_kind)} as {to}, {precision}.")
        module.write(source, temp, precision)
        comparison = _compared(source, module, temp, precision, report)
        record = _record(source, to, precision, comparison)
        write_chunks(temp / RECORD, [json.dumps(record, indent=1, allow_nan=False).encode() + b"\n"])
        size = sum(file.stat().st_size for file in temp.rglob("*") if file.is_file())
    return ExportResult(
        path=target, format=to, step=source.step, comparison=comparison, bytes=size, weights=source.weights_kind,
        warnings=tuple(source.warnings),
    )  # fmt: skip


def verify_export(
    path: str | Path, *, against: str | Path, report: Callable[[str], None] = lambda text: None
) -> ExportResult:
    """Check the sha256 of every file of an export, load it with its target and compare it with the run again.

    Raises StorageError for a damaged export, or one of another run, NumericsError if it differs from the run.
    """
    directory = Path(path)
    record = read_record(directory)
    verify_dir(directory)
    module = export_format(str(record["format"]))
    require_packages(record["format"], module.PACKAGES, getattr(module, "EXTRA", "export"))
    source = open_source(Path(against), int(record["step"]), record.get("weights", "trained"))
    if source.sha256 != record["model_sha256"]:
        raise StorageError(
            f"{escaped_path(directory)} was not exported from step {source.step:,} of {escaped_path(Path(against))}: "
            "its weights have another sha256.",
            hint=f"Give the run that it was exported from: {record['run']}.",
        )
    comparison = _compared(source, module, directory, record["precision"], report)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return ExportResult(
        path=directory, format=record["format"], step=source.step, comparison=comparison, bytes=size,
        weights=source.weights_kind, warnings=tuple(source.warnings),
    )  # fmt: skip


def has_checkpoints(path: str | Path) -> bool:
    """Return whether a directory is one that ``export_checkpoints`` writes."""
    return not (Path(path) / RECORD).exists() and any(Path(path).glob(f"step-*/{RECORD}"))


def verify_checkpoints(
    path: str | Path, *, against: str | Path, report: Callable[[str], None] = lambda text: None
) -> ExportedCheckpoints:
    """Check every export in a directory of ``export_checkpoints``; see ``verify_export``.

    Raises StorageError also if one of them is missing.
    """
    directory = Path(path)
    verify_dir(directory)
    results = [
        verify_export(record.parent, against=against, report=report)
        for record in sorted(directory.glob(f"step-*/{RECORD}"))
    ]
    return ExportedCheckpoints(path=directory, exports=tuple(results))


def read_record(directory: Path) -> dict[str, Any]:
    """Return the content of ``export.json``. Raises StorageError."""
    path = directory / RECORD
    if not path.is_file():
        raise StorageError(
            f"{escaped_path(directory)} is not an export: it has no {RECORD}.",
            hint="Give a directory that fabella export has written.",
        )
    with storage_errors(path, f"reading {RECORD}"), path.open("rb") as file:
        data = file.read(MAX_RECORD_BYTES)
    keys = {"format": str, "precision": str, "step": int, "model_sha256": str, "run": str}
    try:
        record = json.loads(data)
        valid = all(type(record[key]) is kind for key, kind in keys.items())
    except (ValueError, KeyError, TypeError, RecursionError):
        record, valid = {}, False
    if not valid:
        raise StorageError(f"{escaped_path(path)} is damaged.", hint="Export the run again.")
    return record


def _compared(
    source: ExportSource, module: Any, directory: Path, precision: str, report: Callable[[str], None]
) -> Comparison:
    report("Loading it with its target and comparing logits and greedy text.")
    try:
        target = module.open_target(source, directory)
        comparison = compare(source, target, precision, int8_decoder=getattr(module, "INT8_DECODER", False))
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError) as error:  # of another library
        reason = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        raise UsageError(
            f"The target cannot load the export: {reason.rstrip('.')}.", hint="Choose another format (--to)."
        ) from error
    problems = comparison.problems()
    if problems:
        run = quote(escaped_path(source.run_dir.path))
        raise NumericsError(
            f"The export does not equal step {source.step:,} of {run}: {'; '.join(problems)}.",
            hint="Use --precision float32." if precision != "float32" else "Check the run: fabella verify " + run,
        )
    return comparison


def _record(source: ExportSource, to: str, precision: str, comparison: Comparison) -> dict[str, Any]:
    return {
        "format": to,
        "precision": precision,
        "run": source.run_dir.path.resolve().name,
        "step": source.step,
        "weights": source.weights_kind,
        "model_sha256": source.sha256,
        "fabella": fabella.__version__,
        "comparison": comparison.as_json(),
    }
