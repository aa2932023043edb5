"""Hugging Face's transformers as the target of an export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray


class TransformersModel:
    """A causal language model of transformers, in evaluation mode."""

    _model: Any

    @torch.inference_mode()
    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        return self._model(torch.from_numpy(ids)).logits.float().numpy()

    @torch.inference_mode()
    def generate(
        self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int, eos_id: int, **options: Any
    ) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation; a row that ends early is filled with the end. ``options``: of generate."""
        tokens = torch.from_numpy(ids)
        generated = self._model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=max_tokens, **options
        )[:, ids.shape[1] :]
        filled = np.full((len(ids), max_tokens), eos_id, dtype=np.int64)
        filled[:, : generated.shape[1]] = generated.numpy()
        return filled


def quiet_transformers() -> Any:
    """Return the library, which then prints neither warnings nor progress bars."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


class TransformersTarget(TransformersModel):
    """A folder loaded by AutoModelForCausalLM and AutoTokenizer; no file is downloaded."""

    def __init__(self, directory: Path, *, remote_code: bool) -> None:
        """``remote_code``: run the modelling file of the folder, which Fabella has just written or was asked to."""
        transformers = quiet_transformers()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": remote_code}
        self._model = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype="auto", **options)
        self._model.eval()
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(directory), **options)
        self.name = f"transformers {transformers.__version__}, {type(self._model).__name__}"

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation by ``generate``; a row that ends early is filled with the end."""
        return self.generate(ids, max_tokens, self._model.config.eos_token_id)

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of a text, with the first id that the tokenizer adds."""
        return self._tokenizer(text)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)
