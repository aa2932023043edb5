"""One safetensors file with Fabella's own names, the model's config and the tokenizer: half precision or int8."""

import json
from collections.abc import Sequence
from pathlib import Path

from fabella.errors import CheckpointError
from fabella.interop.formats import safetensors_torch
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.source import ExportSource
from fabella.interop.tensor_files_torch import save_tensors
from fabella.runs.checkpoint_validation import checked_weights
from fabella.tokenizers import loading

PRECISIONS = ("float16", "bfloat16", "int8", "float32")
PACKAGES: Sequence[str] = ()
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write weights, config and tokenizer."""
    save_tensors(directory / WEIGHTS, source.weights, precision)
    values = source.config.model_dump(mode="json")
    (directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    source.tokenizer.save(directory / "tokenizer")


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Load the file with the safetensors library, and its weights in float32 into the model of its config."""
    values = json.loads((directory / CONFIG).read_bytes())
    if values != json.loads(source.config.model_dump_json()):
        raise CheckpointError(f"{CONFIG} is not that of the run.", hint="Export the run again.")
    weights = safetensors_torch.read(directory / WEIGHTS)
    config = source.config
    checked = checked_weights(weights, config.parameters(), where=WEIGHTS)
    return safetensors_torch.ReloadedTarget(config, checked, loading.load(directory / "tokenizer"))
