"""Read a Hugging Face folder: config, safetensors and tokenizer. Its code is never executed, pickles are never read."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Pretrained
from fabella.errors import CheckpointError, UsageError
from fabella.interop.architectures.architecture import architecture_for
from fabella.interop.imported_model import ImportedModel, read_json
from fabella.interop.tensor_files_torch import read_tensors
from fabella.interop.tensor_map import row, unpack
from fabella.models.model_config import ModelConfig
from fabella.models.registry import family_config, family_names, parse_model_config
from fabella.storage.messages import escaped_path
from fabella.tokenizers import pretrained

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HEADS = ("lm_head.weight", "embed_out.weight")
MAX_SHARDS = 1000


def read_folder(path: Path) -> ImportedModel:
    """Read a folder: config, safetensors, tokenizer. Code in it is not executed.

    Raises UsageError for an architecture or a feature that no family has, CheckpointError for damaged files.
    """
    values = read_json(path / CONFIG)
    if values.get("model_type") == "fabella":
        return _read_own(path, values)
    if "auto_map" in values:
        raise UsageError(
            f"{escaped_path(path)} has code of its own (auto_map in {CONFIG}), which Fabella does not execute.",
            hint="Import a model whose class is part of transformers.",
        )
    architecture = architecture_for(values.get("model_type"))
    config: ModelConfig = architecture.from_config(values)
    tensors = _with_prefix(_read_weights(path), architecture.PREFIX)
    _drop_tied_head(config, tensors, path)
    weights = unpack(
        architecture.rows(config), tensors, config.parameters(), where=escaped_path(path), ignored=architecture.IGNORED
    )
    classes = values.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else values["model_type"]
    return _imported(path, f"Hugging Face folder, {str(name)[:60]}", config, weights)


def _read_own(path: Path, values: dict[str, Any]) -> ImportedModel:
    """Read a folder that Fabella has exported with a modelling file, which is not executed."""
    network = values.get("network")
    family = network.get("family") if isinstance(network, dict) else None
    if not isinstance(network, dict) or family not in family_names():
        raise UsageError(
            f"{escaped_path(path)} has a model of family {str(family)[:60]!r}, which is not part of Fabella.",
            hint="Import the run that it was exported from.",
        )
    fields = family_config(family).model_fields
    config = parse_model_config({name: value for name, value in network.items() if name in fields})
    tensors = {name.removeprefix("model."): tensor for name, tensor in _read_weights(path).items()}
    table = config.parameters()
    weights = unpack([row(name, name) for name in table], tensors, table, where=escaped_path(path))
    return _imported(path, f"Hugging Face folder of Fabella, family {family}", config, weights)


def _imported(path: Path, source: str, config: ModelConfig, weights: Any) -> ImportedModel:
    tokenizer = pretrained.load(Pretrained(source=str(path)))
    return ImportedModel(source=source, config=config, weights=weights, tokenizer=tokenizer, tokenizer_source=str(path))


def _read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of all safetensors files. Raises CheckpointError; pickles are not read."""
    if (path / WEIGHTS).is_file():
        return read_tensors(path / WEIGHTS)
    if (path / INDEX).is_file():
        return _read_shards(path)
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES and file.is_file())
    if pickled:
        raise CheckpointError(
            f"{escaped_path(path / pickled[0])}: refusing pickle, which can execute code when it is loaded, and there "
            f"is no {WEIGHTS}.",
            hint="Get the safetensors file of the model; the hub has one of most models.",
        )
    raise CheckpointError(f"{escaped_path(path)} has no {WEIGHTS}.", hint="Get all files of the model.")


def _read_shards(path: Path) -> dict[str, NDArray[np.float32]]:
    places = read_json(path / INDEX).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_file_name, places.values())) else set()
    if not 0 < len(names) <= MAX_SHARDS:
        raise CheckpointError(
            f"{escaped_path(path / INDEX)} does not list the files of the model.", hint="Get the file again."
        )
    tensors: dict[str, NDArray[np.float32]] = {}
    for name in sorted(names):
        if not (path / name).is_file():
            raise CheckpointError(f"{escaped_path(path / name)} is missing.", hint="Get all files of the model.")
        tensors |= read_tensors(path / name)
    return tensors


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name and "\\" not in name


def _with_prefix(tensors: dict[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    """Return tensors whose names begin as newer files write them: older ones leave ``transformer.`` out."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {name if name in HEADS else prefix + name: tensor for name, tensor in tensors.items()}


def _drop_tied_head(config: ModelConfig, tensors: dict[str, NDArray[np.float32]], path: Path) -> None:
    """Remove a second copy of the embedding that a tied head is saved as. Raises CheckpointError if it differs."""
    tied = "head.weight" not in config.parameters()
    for name in HEADS:
        if tied and name in tensors:
            head = tensors.pop(name)
            if not any(np.array_equal(head, tensor) for tensor in tensors.values() if tensor.shape == head.shape):
                raise CheckpointError(
                    f"{escaped_path(path)}: {name} is not the embedding, but {CONFIG} ties them.",
                    hint="Set tie_word_embeddings to false in its config.json.",
                )
