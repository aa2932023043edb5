"""Weights read from a safetensors file, in Fabella's model: the target of the format ``safetensors``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fabella.engine.build_model_torch import load_model
from fabella.interop.tensor_files_torch import read_tensors
from fabella.models.model_config import ModelConfig
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer

read = read_tensors


class ReloadedTarget:
    """The same network with the weights as they are in the file, decoded token by token with its state."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], tokenizer: Tokenizer) -> None:
        self._model: Any = load_model(config, weights, "cpu")
        self._tokenizer = tokenizer
        self.name = f"safetensors {safetensors.__version__}"

    @torch.inference_mode()
    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        return self._model(torch.from_numpy(ids)).float().numpy()

    @torch.inference_mode()
    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation by ``Model.decode``."""
        state = self._model.init_state(len(ids), ids.shape[1] + max_tokens)
        tokens, generated = torch.from_numpy(ids), list[torch.Tensor]()
        for _ in range(max_tokens):
            logits, state = self._model.decode(tokens, state)
            tokens = logits[:, : self._tokenizer.vocab_size].argmax(1, keepdim=True)
            generated.append(tokens)
        return torch.cat(generated, 1).numpy()

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of a text after the id that precedes a document."""
        return [prefix_id(self._tokenizer), *self._tokenizer.encode(text).tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self._tokenizer.decode(ids)
