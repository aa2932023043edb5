"""llama.cpp as a decoder of the benchmark: llama-cpp-python runs a model file that gguf writes.

Both are peers (constraints-peers.txt), which Fabella itself does not need. Names and layouts are those of llama.cpp's
architectures ``llama`` and ``gpt2`` (its src/models/, and gguf's constants).
"""

import importlib
import importlib.util
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.benchmark.decode_task import DecodeTask
from fabella.errors import FabellaError
from fabella.models.parameters import initial_weights

PACKAGES = ("llama_cpp", "gguf")
LAYER_NORM_EPSILON = 1e-5  # PyTorch's default, which Fabella's gpt2 uses
FLOAT32 = 0  # gguf's file type of float32 weights
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
"""Fabella's names of the parts of a model, and llama.cpp's."""


def supports(config: Any) -> bool:
    """Return whether both packages are installed and llama.cpp has the network; its GPT-2 has only the tanh GELU."""
    same = config.family == "llama" or (config.family == "gpt2" and config.activation == "gelu_tanh")
    return same and all(importlib.util.find_spec(package) for package in PACKAGES)


def write_model(config: Any, path: Path) -> None:
    """Write the random weights of every baseline as a GGUF file in float32, without a tokenizer."""
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
    """Return all weights under llama.cpp's names and in its layouts."""
    renamed = {_renamed(name): weight for name, weight in initial_weights(config.parameters(), seed=1).items()}
    for layer in range(config.layers):
        block = f"blk.{layer}."
        if config.family == "llama":
            for part, heads in (("attn_q", config.heads), ("attn_k", config.kv_heads)):
                renamed[f"{block}{part}.weight"] = _interleave_rotary(renamed[f"{block}{part}.weight"], heads)
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


def _interleave_rotary(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder rows so that dim 2i of a head rotates with 2i + 1, as in llama.cpp; ours: i with i + E/2."""
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape))


class LlamaCpp:
    """llama.cpp with greedy decoding; all sequences in one batch.

    Weights are float32. The KV cache is float16, llama.cpp's default: with float32 it decoded at half to a seventh of
    the speed.
    """

    name = "llama.cpp"

    def __init__(self, task: DecodeTask, threads: int) -> None:
        self._task = task
        self._library: Any = importlib.import_module("llama_cpp")
        # The package maps llama.cpp's levels one too high: below CRITICAL, warnings would be printed as errors.
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        self._directory = tempfile.TemporaryDirectory(prefix="fabella-")
        path = Path(self._directory.name, "model.gguf")
        write_model(task.config, path)
        self._model, self._context = _load(self._library, path, task, threads)
        self._vocab_size = task.config.vocab_size

    def decode(self) -> float:
        """Run the task once and return the seconds that it took."""
        start = time.perf_counter()
        self.generate(self._task.prompts, self._task.tokens)
        return time.perf_counter() - start

    def generate(self, prompts: NDArray[np.int32], tokens: int) -> list[NDArray[np.int64]]:
        """Return the generated token ids, one array [B] per step."""
        library, (batch, length) = self._library, prompts.shape
        library.llama_memory_clear(library.llama_get_memory(self._context), False)
        prefill = _Batch(library, np.repeat(np.arange(batch), length))
        first = self._decode(prefill, prompts.ravel(), np.tile(np.arange(length), batch), length)
        prefill.close()
        generated, step = [first], _Batch(library, np.arange(batch))
        for position in range(length, length + tokens - 1):
            generated.append(self._decode(step, generated[-1], position, 1))
        step.close()
        return generated

    def _decode(self, batch: "_Batch", tokens: Any, positions: Any, every: int) -> NDArray[np.int64]:
        """Return the most likely next token after each ``every``-th token of the batch, [B]."""
        batch.tokens[:], batch.positions[:] = tokens, positions
        batch.needs_logits[:] = 0
        batch.needs_logits[every - 1 :: every] = 1
        code = self._library.llama_decode(self._context, batch.raw)
        if code:
            raise FabellaError(f"llama.cpp's llama_decode ended with code {code}.")
        shape = (len(batch.tokens) // every, self._vocab_size)
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), shape).argmax(1)

    def close(self) -> None:
        """Free the model and remove its file."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
        self._directory.cleanup()


class _Batch:
    """llama.cpp's batch of tokens, each of one sequence."""

    def __init__(self, library: Any, sequences: NDArray[np.int64]) -> None:
        self._library, self.raw = library, library.llama_batch_init(len(sequences), 0, 1)
        self.raw.n_tokens = len(sequences)
        self.tokens, self.positions, self.needs_logits = (
            np.ctypeslib.as_array(part, (len(sequences),)) for part in (self.raw.token, self.raw.pos, self.raw.logits)
        )
        for index, sequence in enumerate(sequences.tolist()):
            self.raw.n_seq_id[index], self.raw.seq_id[index][0] = 1, sequence

    def close(self) -> None:
        """Free its memory."""
        self._library.llama_batch_free(self.raw)


def _load(library: Any, path: Path, task: DecodeTask, threads: int) -> tuple[Any, Any]:
    """Return the model and a context with a KV cache for all sequences. Raises FabellaError if llama.cpp refuses."""
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    if not model:
        raise FabellaError(f"llama.cpp cannot load the model file that was written for it ({path}).")
    params = library.llama_context_default_params()
    params.n_seq_max = task.batch
    params.n_ctx = task.batch * (task.prompt + task.tokens)
    params.n_batch = max(params.n_batch, task.batch * task.prompt)
    params.n_threads = params.n_threads_batch = threads
    context = library.llama_init_from_model(model, params)
    if not context:
        library.llama_model_free(model)
        raise FabellaError(f"llama.cpp cannot allocate {task.batch} sequences of {task.prompt + task.tokens} tokens.")
    return model, context
