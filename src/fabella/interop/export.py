"""Export a run: write, load with the target, compare, and only then move into place."""

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
from fabella.interop.source import ExportSource, open_source
from fabella.storage import atomic_dir, require_writable, storage_errors, verify_dir, write_chunks
from fabella.storage.messages import escaped_path

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
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return {
            "path": str(self.path), "format": self.format, "step": self.step, "bytes": self.bytes,
            "comparison": self.comparison.as_json(), "warnings": list(self.warnings),
        }  # fmt: skip


def export(
    run: str | Path,
    *,
    to: str,
    out: str | Path = "",
    precision: str = "",
    checkpoint: str | int = "best",
    report: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Export a checkpoint of the run directory ``run`` to the new directory ``out``, by default ``exports/RUN-TO``.

    ``to`` is the format: ``hf``, ``gguf`` … ``precision``: storage type of the weights; empty for the format's default.
    ``report`` gets one sentence per phase.

    Raises UsageError if the format cannot hold this model or a package is missing, NumericsError if the export differs
    from the run; then nothing is written.
    """
    module = export_format(to)
    precision = require_precision(to, module, precision)
    require_packages(to, module.PACKAGES, getattr(module, "EXTRA", "export"))
    target = Path(out) if out else Path("exports") / f"{Path(run).resolve().name}-{to}"
    require_writable(target, "--out")
    if target.exists():
        raise StorageError(f"{escaped_path(target)} exists already.", hint="Remove it, or choose another --out.")
    source = open_source(Path(run), checkpoint)
    with atomic_dir(target) as temp, storage_errors(target, "writing the export"):
        report(f"Writing step {source.step:,} as {to}, {precision}.")
        module.write(source, temp, precision)
        comparison = _compared(source, module, temp, precision, report)
        record = _record(source, to, precision, comparison)
        write_chunks(temp / RECORD, [json.dumps(record, indent=1, allow_nan=False).encode() + b"\n"])
        size = sum(file.stat().st_size for file in temp.rglob("*") if file.is_file())
    return ExportResult(
        path=target, format=to, step=source.step, comparison=comparison, bytes=size, warnings=tuple(source.warnings)
    )


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
    source = open_source(Path(against), int(record["step"]))
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
        warnings=tuple(source.warnings),
    )  # fmt: skip


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
        "model_sha256": source.sha256,
        "fabella": fabella.__version__,
        "comparison": comparison.as_json(),
    }
