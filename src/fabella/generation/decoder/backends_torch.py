"""Decode backends: the native (C++) or tensor backend runs a lowered model, the model backend any other."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fabella.errors import ConfigError
from fabella.generation.decoder.cuda_graphs_torch import CaptureFn, CudaGraphCache, CudaRecorder
from fabella.generation.decoder.graph_torch import DecoderGraph, copy_row, reset_row
from fabella.generation.decoder.lower_torch import UnsupportedModelError, lower
from fabella.generation.decoder.native import build
from fabella.generation.decoder.native.bindings_torch import NativeBackend, NativeProgram, UnsupportedOpError
from fabella.generation.decoder.packed_linear_torch import (
    LinearFactory,
    bfloat16_linear,
    float16_linear,
    float32_linear,
    int8_linear,
)
from fabella.generation.decoder.step_inputs_torch import DecodeInputs, PrefillInputs
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype
from fabella.models.nn.language_model_torch import LanguageModel
from fabella.models.registry import family_label


class DecodeBackend(Protocol):
    """Batch of sequences in rows, each decoded from its own position 0."""

    def reset(self, row: int) -> None:
        """Start a new sequence in ``row``."""
        ...

    def prefill(self, chunks: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """Process the chunks, no two of the same row, and return the logits after each."""
        ...

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Process one more token in each of the first N rows, and return the logits after each."""
        ...

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the sequence of row ``source``, of which ``length`` tokens have been processed, to row ``target``."""
        ...


_FACTORIES: dict[WeightDtype, LinearFactory] = {
    "float32": float32_linear,
    "float16": float16_linear,
    "bfloat16": bfloat16_linear,
    "int8": int8_linear,
}
_compiled: WeakKeyDictionary[nn.Module, DecoderGraph | NativeProgram | None] = WeakKeyDictionary()
"""Decoder of each model; None for a model that only ``ModelBackend`` can decode."""


def decode_backend(model: Any, rows: int, capacity: int) -> DecodeBackend:
    """Return a backend with ``rows`` rows of ``capacity`` tokens each.

    A model in training, whose weights change, is decoded by ``ModelBackend``. For a model with final weights, the
    decoder is compiled once and kept as long as the model.
    """
    if any(weight.requires_grad for weight in model.parameters()):
        return ModelBackend(model, rows, capacity)
    if model not in _compiled:
        compile_decoder(model)
    decoder = _compiled[model]
    if decoder is None:
        return ModelBackend(model, rows, capacity)
    if isinstance(decoder, NativeProgram):
        return NativeBackend(decoder, rows, capacity)
    device = next(model.parameters()).device
    return TensorBackend(decoder, rows, capacity, device, CudaRecorder(device) if device.type == "cuda" else None)


@torch.no_grad()
def compile_decoder(model: Any, dtype: WeightDtype = "float32", *, native: bool = True) -> str:
    """Choose and prepare the backend that decodes ``model`` from now on; return a warning, or "".

    The native backend is used on a CPU if ``native`` and if it can be built. Raises ConfigError if this machine has no
    kernels for ``dtype``, or if the model cannot be lowered and ``dtype`` is not float32.
    """
    _compiled[model] = None
    try:
        graph = lower(model, _FACTORIES[dtype])
    except UnsupportedModelError as unsupported:
        reason = f"the decoder does not support {unsupported}"
        if dtype == "float32":
            return f"Generation with family '{family_label(model.config.family)}' is slower: {reason}."
        raise ConfigError(
            f"Cannot use {dtype} weights with family '{family_label(model.config.family)}': {reason}.",
            hint="Use --dtype float32.",
        ) from None
    _compiled[model] = graph
    if not native or next(model.parameters()).device.type != "cpu":
        return ""
    built = build.library()
    if built.library is not None:
        with suppress(UnsupportedOpError):
            _compiled[model] = NativeProgram(graph, built.library, dtype)
    return built.warning


class TensorBackend:
    """A graph on PyTorch tensors, all rows at once; CUDA graphs are captured if there is a ``capture`` function."""

    def __init__(
        self, graph: DecoderGraph, rows: int, capacity: int, device: torch.device, capture: CaptureFn | None = None
    ) -> None:
        self._graph, self._device = graph, device
        self._caches = graph.init_cache(rows, capacity)
        self._cuda_graphs = None
        if capture:
            self._cuda_graphs = CudaGraphCache(
                graph, self._caches, rows=rows, capacity=capacity, capture=capture, device=device
            )

    def reset(self, row: int) -> None:
        """Start a new sequence in ``row``."""
        reset_row(self._caches, row)

    @torch.inference_mode()
    def prefill(self, chunks: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """Process the chunks one after another, and return the logits after each."""
        logits: list[Tensor] = []
        for row, tokens, start in chunks:
            inputs = PrefillInputs(torch.tensor(tokens, device=self._device), row, start)
            logits.append(self._graph(inputs, self._caches))
        return torch.cat(logits)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Process one more token in each of the first N rows, and return the logits after each."""
        if self._cuda_graphs:
            return self._cuda_graphs.decode(tokens, positions)
        last, ids = max(positions), torch.tensor(tokens, device=self._device)
        if last == min(positions):
            return self._graph(DecodeInputs(ids, ids, shared_position=last), self._caches)
        inputs = DecodeInputs(ids, torch.tensor(positions, device=self._device), max_length=last + 1)
        return self._graph(inputs, self._caches)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the sequence of row ``source`` to row ``target``."""
        copy_row(self._caches, source, target, length)


class ModelBackend:
    """``Model.decode`` with a state per row, one row after another: for any model that keeps the contract."""

    def __init__(self, model: LanguageModel, rows: int, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self._device = next(model.parameters()).device
        self._states: list[Any] = [None] * rows

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Start a new sequence in ``row``."""
        self._states[row] = self._model.init_state(1, self._capacity)

    @torch.inference_mode()
    def prefill(self, chunks: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """Process the chunks one after another, and return the logits after each."""
        return torch.cat([self._decode_row(row, tokens) for row, tokens, _ in chunks])

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Process one more token in each of the first N rows, and return the logits after each."""
        return torch.cat([self._decode_row(row, [token]) for row, token in enumerate(tokens)])

    def _decode_row(self, row: int, tokens: Sequence[int]) -> Float[Tensor, "1 V"]:
        ids = torch.tensor([tokens], device=self._device)
        logits, self._states[row] = self._model.decode(ids, self._states[row])
        return logits

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Move the sequence of row ``source`` to row ``target``, which shares its state."""
        self._states[target] = self._states[source]
