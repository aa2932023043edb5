"""Check that a model family keeps the contract of all families.

Examples:
  fabella check-family ./gla_torch.py      a family in a file of your own
  fabella check-family llama --json        one of the package
"""

import importlib
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result
from fabella.errors import ConfigError
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_module


def command(
    family: Annotated[str, typer.Argument(help="Name of a family, a dotted module, or a path to NAME_torch.py.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run every check on the family's ``Config.tiny()``."""
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


def tiny_config(family: str) -> ModelConfig:
    """Return the family's small config. Raises ConfigError if the family has none."""
    config: Any = family_module(family).Config
    if not hasattr(config, "tiny"):
        raise ConfigError(
            f"Family '{family}' has no small config to check.",
            hint="Give its Config a classmethod tiny() that returns a config with every feature at a small size.",
        )
    return config.tiny()
