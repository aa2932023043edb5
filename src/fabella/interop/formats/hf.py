"""Hugging Face folder: AutoModelForCausalLM and AutoTokenizer load it, with a stock class where one fits."""

import json
from pathlib import Path
from typing import Any

from fabella.errors import UsageError
from fabella.interop.architectures.architecture import architecture_of
from fabella.interop.formats import hf_torch
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.imported_model import ImportedModel
from fabella.interop.model_card import write_card
from fabella.interop.modeling.source import config_values, modeling_source
from fabella.interop.read_folder import read_folder
from fabella.interop.source import ExportSource
from fabella.interop.tensor_files_torch import save_tensors
from fabella.interop.tensor_map import pack
from fabella.interop.tokenizer_json import write_tokenizer
from fabella.storage.messages import escaped_path
from fabella.tokenizers.chat.encode import prefix_id

PRECISIONS = ("float32", "float16", "bfloat16")
PACKAGES = ("transformers",)
MODELING = "modeling_fabella"
MAX_SUPPRESSED = 4096
"""Ids beyond the tokenizer that generation_config lists, so that they are never generated."""


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write config, weights, tokenizer, generation config and model card."""
    architecture = architecture_of(source.config)
    if architecture is not None:
        config = architecture.to_config(source.config)
        tensors = pack(architecture.rows(source.config), source.weights)
    else:
        config = _own_config(source)
        tensors = {f"model.{name}": weight for name, weight in source.weights.items()}
        (directory / f"{MODELING}.py").write_text(modeling_source(source.config), encoding="utf-8")
    eos = source.tokenizer.eos_id
    ids = {"bos_token_id": prefix_id(source.tokenizer), "eos_token_id": eos, "pad_token_id": eos}
    _write_json(directory / "config.json", {**config, **ids, "dtype": precision, "torch_dtype": precision})
    _write_json(directory / "generation_config.json", {**ids, **_suppressed(source)})
    save_tensors(directory / "model.safetensors", tensors, precision)
    write_tokenizer(source.tokenizer, directory, source.config.context_length)
    write_card(source, directory, precision=precision, remote_code=architecture is None)


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Load the folder with transformers. Raises UsageError for code that Fabella does not write for this run."""
    own = architecture_of(source.config) is None
    if own:
        _require_own_code(source, directory)
    return hf_torch.TransformersTarget(directory, remote_code=own)


def _require_own_code(source: ExportSource, directory: Path) -> None:
    """Raise UsageError unless the folder's only code is the modelling file of this version and family."""
    files = {path.name: path.read_bytes() for path in directory.glob("*.py")}
    config = json.loads((directory / "config.json").read_bytes())
    expected = {f"{MODELING}.py": modeling_source(source.config).encode()}
    if files != expected or config.get("auto_map") != _own_config(source)["auto_map"]:
        raise UsageError(
            f"{escaped_path(directory)} has code that this version of Fabella does not write for the run. "
            "It was not executed.",
            hint="Export the run again.",
        )


def _own_config(source: ExportSource) -> dict[str, Any]:
    return {
        "architectures": ["FabellaForCausalLM"],
        "model_type": "fabella",
        "auto_map": {
            "AutoConfig": f"{MODELING}.FabellaConfig",
            "AutoModelForCausalLM": f"{MODELING}.FabellaForCausalLM",
        },
        "network": config_values(source.config),
        "tie_word_embeddings": False,
    }


def _suppressed(source: ExportSource) -> dict[str, Any]:
    """Return the ids that the model has and the tokenizer lacks: Fabella never generates them."""
    extra = list(range(source.tokenizer.vocab_size, source.config.vocab_size))
    return {"suppress_tokens": extra} if 0 < len(extra) <= MAX_SUPPRESSED else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def recognizes(path: Path) -> bool:
    """Return whether ``path`` is a folder with a ``config.json``, and not a run."""
    return (path / "config.json").is_file() and not (path / "config.yaml").exists()


def read(path: Path) -> ImportedModel:
    """Read a folder; see ``read_folder``."""
    return read_folder(path)
