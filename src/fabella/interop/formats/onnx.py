"""ONNX: one graph that onnxruntime runs, with the states of the layers as inputs and outputs, and the tokenizer."""

from pathlib import Path

from fabella.errors import UsageError
from fabella.interop.formats import onnx_torch
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.source import ExportSource
from fabella.interop.tokenizer_json import write_tokenizer
from fabella.storage import write_chunks
from fabella.storage.formatting import format_bytes
from fabella.tokenizers.chat.encode import prefix_id

PRECISIONS = ("float32", "float16")
PACKAGES = ("onnx", "onnxruntime")
EXTRA = "onnx"
FILE = "model.onnx"
MAX_BYTES = 2**31 - 2**20
"""Weights that fit into one ONNX file: it is a protocol buffer of less than 2 GB."""


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write the graph, its sizes and the tokenizer. Raises UsageError if the decoder does not know the model."""
    import onnx

    half = precision == "float16"
    size = sum(weight.size for weight in source.weights.values()) * (2 if half else 4)
    if size > MAX_BYTES:
        hint = "Use --to hf or --to gguf." if half else "Use --precision float16, or --to hf."
        raise UsageError(f"An ONNX file holds less than 2 GB, and the weights are {format_bytes(size)}.", hint=hint)
    try:
        model = onnx_torch.model_of(onnx, source.config, source.weights, half=half)
    except onnx_torch.UnsupportedModel as unsupported:
        raise UsageError(
            f"ONNX cannot hold family '{source.config.family}': the decoder does not support {unsupported}.",
            hint="Use --to hf.",
        ) from None
    onnx.helper.set_model_props(model, _properties(source))
    onnx.checker.check_model(model)
    write_chunks(directory / FILE, [model.SerializeToString()])
    write_tokenizer(source.tokenizer, directory, source.config.context_length)


def _properties(source: ExportSource) -> dict[str, str]:
    """Return what a program needs that runs the graph: which id comes first, which one ends, how many tokens fit."""
    values = {
        "first_id": prefix_id(source.tokenizer),
        "eos_id": source.tokenizer.eos_id,
        "ids": source.tokenizer.vocab_size,
        "context_length": 0 if source.config.unlimited_context else source.config.context_length,
    }
    return {name: str(value) for name, value in values.items()}


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Load the graph with onnxruntime and the tokenizer with the tokenizers library."""
    return onnx_torch.OnnxRuntimeTarget(directory / FILE, directory / "tokenizer.json", source)
