"""Check that a model family keeps the contract of all families.

A family in a file is Python code, and this command executes it: read a file that you received first. With --trust, runs
that were trained with the same file can be loaded on this machine.

Examples:
  fabella check-family ./gla_torch.py                        a family in a file of your own
  fabella check-family runs/gla/family/gla_torch.py --trust  the family of a run that you received, after reading it
  fabella check-family llama --json                          one of the package
"""

import importlib
from dataclasses import asdict
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result
from fabella.cli.run_options import AsJson
from fabella.models.registry import tiny_config
from fabella.runs.family_files import trust_family


def command(
    family: Annotated[str, typer.Argument(help="Name of a family, a dotted module, or a path to NAME_torch.py.")],
    trust: Annotated[bool, typer.Option("--trust", help="Trust the file: load runs with it on this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run every check on the family's ``Config.tiny()``."""
    if trust:
        trust_family(family)
    config = tiny_config(family)
    results = importlib.import_module("fabella.engine.family_checks_torch").check_family(config)
    failures = [result for result in results if result.problem]
    if as_json:
        print_json({"family": family, "passed": not failures, "checks": [asdict(result) for result in results]})
    else:
        for result in results:
            print_result(f"{'FAILED' if result.problem else 'ok':<7} {result.name}")
            if result.problem:
                print_result(f"        {result.problem}")
    if failures:
        raise typer.Exit(2)
