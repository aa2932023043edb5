"""Verify the checksums of a run directory: config, tokenizer, checkpoints, metrics.

Compares every file with its recorded sha256, and the weights' names and shapes with the model's parameter
table. Verifies a prepared dataset as well. Exits with code 4 if anything is damaged, or if the model family of the run
is unknown.

Examples:
  fabella verify runs/my-stories
  fabella verify runs/my-stories --json
  fabella verify prepared/my-stories
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result
from fabella.cli.run_options import AsJson
from fabella.errors import StorageError
from fabella.runs.verify import Finding, verify


def command(
    run: Annotated[Path, typer.Argument(help="Run directory, or directory of a prepared dataset.")],
    as_json: AsJson = False,
) -> int:
    findings = verify(run)
    intact = all(finding.level == "remark" for finding in findings)
    if as_json:
        print_json(
            {"run": str(run), "intact": intact, "findings": [dataclasses.asdict(finding) for finding in findings]}
        )
    else:
        _print_findings(run, findings, intact)
    return 0 if intact else StorageError.exit_code


def _print_findings(run: Path, findings: list[Finding], intact: bool) -> None:
    for finding in findings:
        print_result(f"{finding.level:<8} {finding.where}: {finding.problem}")
    damaged = sum(finding.level == "damaged" for finding in findings)
    if not intact and not damaged:
        print_result(f"{run} was not verified: its family is unknown.")
        return
    print_result(f"{run} is intact." if intact else f"{run}: {damaged} damaged {'part' if damaged == 1 else 'parts'}.")
