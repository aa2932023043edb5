"""What reads texts into rows: the family's decoder, compiled where it can be, or the model itself, a state a row."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fabella.errors import ConfigError
from fabella.generation.decoder.cuda_graphs_torch import CaptureFn, CudaGraphCache, CudaRecorder
from fabella.generation.decoder.native import build
from fabella.generation.decoder.native.bindings_torch import NativeBackend, NativeProgram, UnsupportedOpError
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype
from fabella.models.nn.graph_torch import DecoderGraph, copy_row, reset_row
from fabella.models.nn.language_model_torch import LanguageModel
from fabella.models.nn.packed_linear_torch import LinearFactory, float16_linear, float32_linear, int8_linear
from fabella.models.nn.step_inputs_torch import DecodeInputs, PrefillInputs


class DecodeBackend(Protocol):
    """Texts in rows, each read from its own position 0 on."""

    def reset(self, row: int) -> None:
        """A new text in this row."""
        ...

    def prefill(self, parts: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """Logits after each of these parts, no two of which are of the same text."""
        ...

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """Logits after one more token of each of the first rows."""
        ...

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Let row ``target`` hold the text of row ``source``, of which ``length`` tokens have been read."""
        ...


_LAYOUTS: dict[WeightDtype, LinearFactory] = {"float32": float32_linear, "float16": float16_linear, "int8": int8_linear}
_laid_out: WeakKeyDictionary[nn.Module, DecoderGraph | NativeProgram] = WeakKeyDictionary()


def decode_backend(model: Any, rows: int, capacity: int) -> DecodeBackend:
    """Room for ``capacity`` tokens of each of ``rows`` texts.

    A model in training changes under our hands: it is read as it is. Of one whose weights stay, the family's decoder is
    made once and kept as long as the model.
    """
    if not hasattr(model, "decoder") or any(weight.requires_grad for weight in model.parameters()):
        return ModelBackend(model, rows, capacity)
    if model not in _laid_out:
        compile_decoder(model)
    found = _laid_out[model]
    if isinstance(found, NativeProgram):
        return NativeBackend(found, rows, capacity)
    device = next(model.parameters()).device
    return TensorBackend(found, rows, capacity, device, CudaRecorder(device) if device.type == "cuda" else None)


@torch.no_grad()
def compile_decoder(model: Any, weights: WeightDtype = "float32", *, compiled: bool = True) -> str:
    """Settle how texts of ``model`` are told from now on, by the compiled step if it can be had and ``compiled`` says
    so; the answer is a sentence about what could not be, or nothing.

    Raises ConfigError where this machine has no products for such weights, or the family has no decoder.
    """
    if not hasattr(model, "decoder"):
        if weights == "float32":
            return ""
        raise ConfigError(f"Models of family '{model.config.family}' cannot be told from {weights} weights.")
    decoder: DecoderGraph = model.decoder(_LAYOUTS[weights])
    _laid_out[model] = decoder
    if not compiled or next(model.parameters()).device.type != "cpu":
        return ""
    found = build.step()
    if found.library is not None:
        with suppress(UnsupportedOpError):
            _laid_out[model] = NativeProgram(decoder, found.library, weights)
    return found.remark


class TensorBackend:
    """Rows of one memory that a decoder reads all at once, with what is recorded of that where there is a recorder."""

    def __init__(
        self, decoder: DecoderGraph, rows: int, capacity: int, device: torch.device, recorder: CaptureFn | None = None
    ) -> None:
        self._decoder, self._device = decoder, device
        self._memory = decoder.start(rows, capacity)
        self._graphs = None
        if recorder:
            self._graphs = CudaGraphCache(
                decoder, self._memory, rows=rows, capacity=capacity, recorder=recorder, device=device
            )

    def reset(self, row: int) -> None:
        """See Rows."""
        reset_row(self._memory, row)

    @torch.inference_mode()
    def prefill(self, parts: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """See Rows. One part after the other."""
        found: list[Tensor] = []
        for row, tokens, start in parts:
            stretch = PrefillInputs(torch.tensor(tokens, device=self._device), row, start)
            found.append(self._decoder.read(stretch, self._memory))
        return torch.cat(found)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """See Rows."""
        if self._graphs:
            return self._graphs.go_on(tokens, positions)
        longest, ids = max(positions), torch.tensor(tokens, device=self._device)
        if longest == min(positions):
            return self._decoder.read(DecodeInputs(ids, ids, shared_position=longest), self._memory)
        places = torch.tensor(positions, device=self._device)
        return self._decoder.read(DecodeInputs(ids, places, max_length=longest + 1), self._memory)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """See Rows."""
        copy_row(self._memory, source, target, length)


class ModelBackend:
    """A state of its own for every row, read one after the other: for any model that keeps the contract."""

    def __init__(self, model: LanguageModel, rows: int, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self._device = next(model.parameters()).device
        self._states: list[Any] = [None] * rows

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """See Rows."""
        self._states[row] = self._model.init_state(1, self._capacity)

    @torch.inference_mode()
    def prefill(self, parts: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """See Rows."""
        found: list[Tensor] = []
        for row, tokens, _ in parts:
            logits, self._states[row] = self._model.decode(
                torch.tensor([tokens], device=self._device), self._states[row]
            )
            found.append(logits)
        return torch.cat(found)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """See Rows."""
        found: list[Tensor] = []
        for row, token in enumerate(tokens):
            logits, self._states[row] = self._model.decode(
                torch.tensor([[token]], device=self._device), self._states[row]
            )
            found.append(logits)
        return torch.cat(found)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """See Rows."""
        self._states[target] = self._states[source]
