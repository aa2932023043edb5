"""llama.cpp among those whose telling is measured: by llama-cpp-python, from a model file that gguf writes.

Both are peers (constraints-peers.txt), which Fabella itself does not need. Names and layouts are those of llama.cpp's
architectures ``llama`` and ``gpt2`` (its src/models/, and gguf's constants).
"""

import importlib
import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.benchmark.decode_task import DecodeTask, InProcess
from fabella.errors import FabellaError
from fabella.models.parameters import initial_weights

PACKAGES = ("llama_cpp", "gguf")
LAYER_NORM_EPSILON = 1e-5  # PyTorch's own, which Fabella's gpt2 keeps
FLOAT32 = 0  # gguf's number for a file of such weights
SHARED_NAMES = {
    "embedding": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
"""What Fabella calls a part, and what llama.cpp does."""


def supports(config: Any) -> bool:
    """Whether both packages are installed and llama.cpp computes the same: its GPT-2 has tanh's form of GELU alone."""
    same = config.family == "llama" or (config.family == "gpt2" and config.activation == "gelu_tanh")
    return same and all(importlib.util.find_spec(package) for package in PACKAGES)


def write_model(config: Any, path: Path) -> None:
    """The random weights that everybody is measured with, in float32, without a tokenizer."""
    writer: Any = importlib.import_module("gguf").GGUFWriter(path, config.family)
    writer.add_file_type(FLOAT32)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.heads)
    if config.family == "llama":
        writer.add_head_count_kv(config.kv_heads)
        writer.add_rope_dimension_count(config.dim // config.heads)
        writer.add_rope_freq_base(config.rotary_base)
        writer.add_layer_norm_rms_eps(config.norm_eps)
    else:
        writer.add_layer_norm_eps(LAYER_NORM_EPSILON)
    for name, tensor in tensors(config).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(config: Any) -> dict[str, NDArray[np.float32]]:
    """All weights by llama.cpp's names, in its layouts."""
    renamed = {_renamed(name): weight for name, weight in initial_weights(config.parameters(), seed=1).items()}
    for layer in range(config.layers):
        block = f"blk.{layer}."
        if config.family == "llama":
            for part, heads in (("attn_q", config.heads), ("attn_k", config.kv_heads)):
                renamed[f"{block}{part}.weight"] = _neighbours(renamed[f"{block}{part}.weight"], heads)
        else:
            for kind in ("weight", "bias"):
                parts = [renamed.pop(f"{block}{part}.{kind}") for part in ("attn_q", "attn_k", "attn_v")]
                renamed[f"{block}attn_qkv.{kind}"] = np.concatenate(parts)
    return renamed


def _renamed(name: str) -> str:
    part, kind = name.rsplit(".", 1)
    if not part.startswith("blocks."):
        return f"{SHARED_NAMES[part]}.{kind}"
    _, layer, inner = part.split(".", 2)
    return f"blk.{layer}.{SHARED_NAMES[inner]}.{kind}"


def _neighbours(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows so ordered that dim 2i of a head turns with dim 2i + 1, as llama.cpp has it; ours: i with i + E/2."""
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape))


class LlamaCpp(InProcess):
    """llama.cpp, always the likeliest token: all texts in one batch, each a sequence of its own.

    Weights are float32. Keys and values are kept in float16, as llama.cpp does unless told otherwise: with float32 ones
    it told at half to a seventh of the speed.
    """

    def __init__(self, telling: DecodeTask, threads: int) -> None:
        def tell() -> None:
            self.told(telling.prompts, telling.tokens)

        super().__init__("llama.cpp", tell)
        self._library: Any = importlib.import_module("llama_cpp")
        # Its names for llama.cpp's levels are one off: below this, warnings would be printed as errors.
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        self._folder = tempfile.TemporaryDirectory(prefix="fabella-")
        path = Path(self._folder.name, "model.gguf")
        write_model(telling.config, path)
        self._model, self._context = _load(self._library, path, telling, threads)
        self._vocabulary = telling.config.vocab_size

    def told(self, prompts: NDArray[np.int32], tokens: int) -> list[NDArray[np.int64]]:
        """The ids told in each text, [B] a step."""
        library, (texts, length) = self._library, prompts.shape
        library.llama_memory_clear(library.llama_get_memory(self._context), False)
        reading = _Batch(library, np.repeat(np.arange(texts), length))
        likeliest = self._decode(reading, prompts.ravel(), np.tile(np.arange(length), texts), length)
        reading.close()
        told, step = [likeliest], _Batch(library, np.arange(texts))
        for position in range(length, length + tokens - 1):
            told.append(self._decode(step, told[-1], position, 1))
        step.close()
        return told

    def _decode(self, batch: "_Batch", tokens: Any, positions: Any, every: int) -> NDArray[np.int64]:
        """The likeliest next token after each ``every``th of the batch, [B]."""
        batch.tokens[:], batch.positions[:] = tokens, positions
        batch.wanted[:] = 0
        batch.wanted[every - 1 :: every] = 1
        code = self._library.llama_decode(self._context, batch.raw)
        if code:
            raise FabellaError(f"llama.cpp's llama_decode ended with code {code}.")
        shape = (len(batch.tokens) // every, self._vocabulary)
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), shape).argmax(1)

    def close(self) -> None:
        """See Contestant."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
        self._folder.cleanup()


class _Batch:
    """llama.cpp's batch of tokens, of which each belongs to a text."""

    def __init__(self, library: Any, texts: NDArray[np.int64]) -> None:
        self._library, self.raw = library, library.llama_batch_init(len(texts), 0, 1)
        self.raw.n_tokens = len(texts)
        self.tokens, self.positions, self.wanted = (
            np.ctypeslib.as_array(part, (len(texts),)) for part in (self.raw.token, self.raw.pos, self.raw.logits)
        )
        for place, text in enumerate(texts.tolist()):
            self.raw.n_seq_id[place], self.raw.seq_id[place][0] = 1, text

    def close(self) -> None:
        """Free its memory."""
        self._library.llama_batch_free(self.raw)


def _load(library: Any, path: Path, telling: DecodeTask, threads: int) -> tuple[Any, Any]:
    """The model, and room for all texts. Raises FabellaError where llama.cpp takes either not."""
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    if not model:
        raise FabellaError(f"llama.cpp cannot load the model file that was written for it ({path}).")
    given = library.llama_context_default_params()
    given.n_seq_max = telling.batch
    given.n_ctx = telling.batch * (telling.prompt + telling.tokens)
    given.n_batch = max(given.n_batch, telling.batch * telling.prompt)
    given.n_threads = given.n_threads_batch = threads
    context = library.llama_init_from_model(model, given)
    if not context:
        library.llama_model_free(model)
        raise FabellaError(f"llama.cpp makes no room for {telling.batch} texts of {telling.prompt + telling.tokens}.")
    return model, context
