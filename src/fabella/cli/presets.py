"""List the presets, or print one as YAML.

Examples:
  fabella presets                       table of all presets
  fabella presets piny-37m              YAML of one preset, to copy and change
  fabella presets piny-37m --json       parameter counts and config as JSON
"""

from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result
from fabella.cli.run_options import AsJson
from fabella.models.parameters import count, count_non_embedding
from fabella.run_config.files import preset, preset_names, preset_text
from fabella.run_config.run import RunConfig
from fabella.storage import align_columns

COLUMNS = ("preset", "parameters", "non-embedding", "context", "tokenizer", "published result")


def command(
    name: Annotated[str, typer.Argument(help="Preset name; by default all are listed.")] = "",
    as_json: AsJson = False,
) -> None:
    if as_json:
        print_json(_to_json(preset(name)) if name else {"presets": [_to_json(preset(name)) for name in preset_names()]})
    elif name:
        print_result(preset_text(name), end="")
    else:
        print_result(table())


def _to_json(run: RunConfig) -> dict[str, Any]:
    weights = run.model.parameters()
    return {
        "name": run.name,
        "parameters": count(weights),
        "non_embedding_parameters": count_non_embedding(weights),
        "context_length": run.data.sequences.length,
        "published": run.about.published,
        "config": run.model_dump(mode="json"),
    }


def table() -> str:
    """Format all presets as a table, smallest first."""
    runs = sorted((preset(name) for name in preset_names()), key=lambda run: count(run.model.parameters()))
    return "\n".join(align_columns([COLUMNS, *(_row(run) for run in runs)], left=(0, 4, 5)))


def _row(run: RunConfig) -> tuple[str, ...]:
    weights = run.model.parameters()
    kind = run.tokenizer.kind
    tokenizer = f"{getattr(run.tokenizer, 'source', kind)} {run.model.vocab_size:,}"
    numbers = (f"{count(weights):,}", f"{count_non_embedding(weights):,}", f"{run.data.sequences.length:,}")
    return (run.name, *numbers, tokenizer, run.about.published or "-")
