"""GGUF, the file of llama.cpp, with its tokenizer: float32, float16, bfloat16 or q8_0; and its import."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.interop.architectures.architecture import architecture_of
from fabella.interop.formats import gguf_torch
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.gguf_files.layout import architecture_name, sizes, to_tensors
from fabella.interop.gguf_files.read import is_gguf, read_gguf
from fabella.interop.gguf_files.vocab import warnings_of, write_vocab
from fabella.interop.imported_model import ImportedModel
from fabella.interop.source import ExportSource

PRECISIONS = ("float32", "float16", "bfloat16", "q8_0")
PACKAGES = ("gguf", "transformers", "accelerate")
IMPORT_PACKAGES: Sequence[str] = ("gguf",)
REASONS = {
    "q4_k": "the gguf library reads it but does not write it; llama.cpp's llama-quantize makes it from float16",
    "q4_0": "it changes the bits per byte of small models by more than 0.5 %",
}
FILE = "model.gguf"
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
QUANTIZED_BLOCK = 32
"""Values of a row that have a common scale in q8_0; matrices with other widths stay float16."""


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write one file with sizes, vocabulary and weights. Norms and biases are float32 in every precision."""
    import gguf

    config: Any = source.config
    name = architecture_name(config)
    writer = gguf.GGUFWriter(directory / FILE, name)
    writer.add_name(source.run_dir.run.name)
    writer.add_file_type(getattr(gguf.LlamaFileType, FILE_TYPES[precision]))
    writer.add_vocab_size(config.vocab_size)
    for key, value in sizes(config).items():
        if isinstance(value, bool):
            writer.add_bool(f"{name}.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"{name}.{key}", value)
        else:
            writer.add_float32(f"{name}.{key}", value)
    write_vocab(writer, source.tokenizer, config.vocab_size)
    source.warnings.extend(warnings_of(source.tokenizer))
    for tensor_name, tensor in to_tensors(config, source.weights).items():
        _add_tensor(gguf, writer, tensor_name, tensor, precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensor(gguf: Any, writer: Any, name: str, tensor: NDArray[np.float32], precision: str) -> None:
    if tensor.ndim < 2 or precision == "float32" or name == "position_embd.weight":
        writer.add_tensor(name, tensor)
        return
    if precision == "q8_0" and tensor.shape[1] % QUANTIZED_BLOCK:
        precision = "float16"
    kind = getattr(gguf.GGMLQuantizationType, TYPES[precision])
    writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Load the file with llama.cpp if llama-cpp-python is installed, else with the GGUF reader of transformers.

    That reader does not know ``gptneox``, whose tensors get the names of transformers by the gguf library's own table.
    """
    if importlib.util.find_spec("llama_cpp") is not None:
        return gguf_torch.LlamaCppTarget(directory / FILE, source)
    if architecture_name(source.config) == "gptneox":
        return gguf_torch.read_gpt_neox(directory / FILE, source)
    values = architecture_of(source.config).to_config(source.config)
    return gguf_torch.read_by_transformers(directory, FILE, source, values)


def recognizes(path: Path) -> bool:
    """Return whether ``path`` is a GGUF file, or a folder with one ``model.gguf``."""
    return is_gguf(path / FILE if path.is_dir() else path)


def read(path: Path) -> ImportedModel:
    """Read a file; quantized tensors become float32."""
    return read_gguf(path / FILE if path.is_dir() else path)
