"""Prove a run folder whole: config, tokenizer, checkpoints, metrics.

Every file is compared with the sha256 it was written with, every weight with the model's parameter
table. A folder of prepared data is proven too. Ends with exit code 4 where anything is damaged.

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
from fabella.errors import StorageError
from fabella.runs.verify import Finding, verify


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of prepared data.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> int:
    findings = verify(run)
    whole = not any(finding.level == "damaged" for finding in findings)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        print_json({"run": str(run), "whole": whole, "findings": found})
    else:
        _tell(run, findings, whole)
    return 0 if whole else StorageError.exit_code


def _tell(run: Path, findings: list[Finding], whole: bool) -> None:
    for finding in findings:
        print_result(f"{finding.level:<8} {finding.where}: {finding.problem}")
    damaged = sum(finding.level == "damaged" for finding in findings)
    print_result(f"{run} is whole." if whole else f"{run}: {damaged} of its parts are damaged.")
