"""Verify the checksums of a run directory: config, tokenizer, checkpoints, metrics.

Compares every file with its recorded sha256, and the weights' names and shapes with the model's parameter
table. Verifies a prepared dataset as well. Exits with code 4 if anything is damaged, or if the model family of the run
is unknown. With --against, compares an export with its run again, as fabella export did.

Examples:
  fabella verify runs/my-stories
  fabella verify runs/my-stories --json
  fabella verify prepared/my-stories
  fabella verify exports/my-stories-hf --against runs/my-stories
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_report, print_result, print_status
from fabella.cli.run_options import AsJson
from fabella.errors import StorageError
from fabella.runs.verify import Finding, verify


def command(
    run: Annotated[Path, typer.Argument(help="Run directory, directory of a prepared dataset, or an export.")],
    against: Annotated[
        Path | None, typer.Option(help="Run that the export was made from: compare logits and text again.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    if against is not None:
        _verify_export(run, against, as_json=as_json)
        return 0
    findings = verify(run)
    intact = all(finding.level == "remark" for finding in findings)
    if as_json:
        print_json(
            {"run": str(run), "intact": intact, "findings": [dataclasses.asdict(finding) for finding in findings]}
        )
    else:
        _print_findings(run, findings, intact)
    return 0 if intact else StorageError.exit_code


def _verify_export(path: Path, run: Path, *, as_json: bool) -> None:
    """Compare an export with its run. Imported here, because it loads PyTorch, which checksums do not need."""
    interop, command_file = (importlib.import_module(f"fabella.{name}.export") for name in ("interop", "cli"))
    if interop.has_checkpoints(path):
        exports = interop.verify_checkpoints(path, against=run, report=print_status)
        print_report(exports, command_file.checkpoint_lines, as_json=as_json)
        return
    result = interop.verify_export(path, against=run, report=print_status)
    print_report(result, command_file.lines, as_json=as_json)


def _print_findings(run: Path, findings: list[Finding], intact: bool) -> None:
    for finding in findings:
        print_result(f"{finding.level:<8} {finding.where}: {finding.problem}")
    damaged = sum(finding.level == "damaged" for finding in findings)
    if not intact and not damaged:
        print_result(f"{run} was not verified: its family is unknown.")
        return
    print_result(f"{run} is intact." if intact else f"{run}: {damaged} damaged {'part' if damaged == 1 else 'parts'}.")
