"""onnxruntime as the target of an ONNX export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library

from fabella.interop.onnx_graph.model_torch import IDS, LOGITS, UnsupportedModel, model_of
from fabella.interop.source import ExportSource

__all__ = ["OnnxRuntimeTarget", "UnsupportedModel", "model_of"]


class OnnxRuntimeTarget:
    """A graph in onnxruntime on the CPU. Greedy text is decoded one token at a time, with the states."""

    def __init__(self, model: Path, tokenizer: Path, source: ExportSource) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._library = Library.from_file(str(tokenizer))
        self._library.encode_special_tokens = source.tokenizer.chat_template is None
        self._size = source.tokenizer.vocab_size
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._states = [value for value in self._session.get_inputs() if value.name != IDS]
        self.name = f"onnxruntime {onnxruntime.__version__}"

    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        return self._run(ids, self._empty(len(ids)))[0]

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation of each row: the prompt at once, then one token at a time."""
        states, generated = self._empty(len(ids)), list[NDArray[np.int64]]()
        for _ in range(max_tokens):
            logits, states = self._run(ids, states)
            ids = logits[:, -1, : self._size].argmax(-1)[:, None].astype(np.int64)
            generated.append(ids)
        return np.concatenate(generated, axis=1)

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of a text, with the first id that the tokenizer adds."""
        return self._library.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens."""
        return self._library.decode(list(ids))

    def _empty(self, rows: int) -> dict[str, NDArray[np.float32]]:
        """Return the states before the first token: caches of length 0, hidden states of 0."""
        sizes = {"batch": rows, "past_length": 0}
        return {
            value.name: np.zeros([sizes[n] if isinstance(n, str) else n for n in value.shape], dtype=np.float32)
            for value in self._states
        }

    def _run(
        self, ids: NDArray[np.int64], states: dict[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        values = dict(zip(self._outputs, self._session.run(None, {IDS: ids, **states}), strict=True))
        new = {name: values[name.replace("past_key_values", "present").replace("past", "present")] for name in states}
        return values[LOGITS], new
