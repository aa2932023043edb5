"""Targets of a GGUF file: llama.cpp, and the GGUF reader of transformers."""

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from fabella.interop.formats.hf_torch import TransformersModel, quiet_transformers
from fabella.interop.gguf_files.vocab import reads_marks_as_spaces
from fabella.interop.source import ExportSource
from fabella.tokenizers.vocab_bytes import SPACE_MARK

UNREAD = {"n_positions", "n_inner", "head_dim"}
"""Sizes that the GGUF reader of transformers leaves out."""


class GGUFModel(TransformersModel):
    """The weights of a GGUF file in transformers' class for it; its tokenizer is left to llama.cpp."""

    tokenizer_note = "written; compared only where llama-cpp-python is installed"

    def __init__(self, model: Any, source: ExportSource, name: str) -> None:
        self._model = model.eval()
        self._size, self._eos = source.tokenizer.vocab_size, source.tokenizer.eos_id
        self.name = f"{name}, {type(model).__name__}"

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation by ``generate``, without the ids that the tokenizer lacks."""
        extra = list(range(self._size, self._model.config.vocab_size)) or None
        end: Any = {"eos_token_id": self._eos, "pad_token_id": self._eos, "suppress_tokens": extra}
        return self.generate(ids, max_tokens, self._eos, **end)

    def encode(self, text: str) -> None:
        """Return None: the tokenizer is not compared."""

    def decode(self, ids: Sequence[int]) -> str:
        """Not called, because ``encode`` returns None."""
        raise NotImplementedError


def read_by_transformers(directory: Path, file: str, source: ExportSource, sizes: Mapping[str, Any]) -> GGUFModel:
    """Load a file with the GGUF reader of transformers.

    ``sizes``: the ``config.json`` of the model, for the sizes that the reader does not take from the header.
    """
    transformers = quiet_transformers()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars have no switch
        options: Any = {"gguf_file": file, "local_files_only": True}
        config: Any = transformers.AutoConfig.from_pretrained(str(directory), **options)
        for key in UNREAD & sizes.keys():
            setattr(config, key, sizes[key])
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(directory), config=config, dtype=torch.float32, **options
        )
    return GGUFModel(model, source, f"transformers {transformers.__version__} reading GGUF")


def read_gpt_neox(path: Path, source: ExportSource) -> GGUFModel:
    """Load a file of architecture ``gptneox`` into transformers' GPTNeoXForCausalLM.

    The GGUF reader of transformers does not know it. Sizes come from the header, names from the gguf library's table
    of both. llama.cpp keeps queries, keys and values apart (its convert_hf_to_gguf.py); transformers interleaves heads.
    """
    transformers, library = quiet_transformers(), importlib.import_module("gguf")
    reader = library.GGUFReader(path)
    header = {name.removeprefix("gptneox."): entry.contents() for name, entry in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads, width = header["attention.head_count"], header["embedding_length"]
    config = transformers.GPTNeoXConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        max_position_embeddings=header["context_length"],
        hidden_size=width,
        intermediate_size=header["feed_forward_length"],
        num_hidden_layers=header["block_count"],
        num_attention_heads=heads,
        hidden_act="gelu_pytorch_tanh",  # what llama.cpp computes
        rotary_pct=(header["rope.dimension_count"] + 0.5) / (width // heads + 0.5),  # it rounds down
        rotary_emb_base=header["rope.freq_base"],
        layer_norm_eps=header["attention.layer_norm_epsilon"],
        use_parallel_residual=header["use_parallel_residual"],
        tie_word_embeddings=False,
    )
    model = transformers.GPTNeoXForCausalLM(config)
    names = library.get_tensor_name_map(library.MODEL_ARCH.GPTNEOX, header["block_count"])
    state = {}
    for name, weight in model.state_dict().items():
        tensor = tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        values = torch.tensor(library.quants.dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
        if ".query_key_value." in name:
            values = values.reshape(3, heads, width // heads, -1).transpose(0, 1)
        state[name] = values.reshape(weight.shape)
    model.load_state_dict(state)
    return GGUFModel(model, source, f"gguf {version('gguf')} and transformers {transformers.__version__}")


class HalfGELU(TorchFunctionMode):
    """While this is active, GELU is computed as llama.cpp does on a CPU: from and to float16.

    ggml looks values between -10 and 10 up in a table of float16 (``GGML_GELU_FP16``), also with a float32 file.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``; round argument and result of GELU."""
        result = func(*args, **(kwargs or {}))
        if func is not torch.nn.functional.gelu:
            return result
        x = args[0]
        return torch.where(x.abs() < 10, func(x.half().float(), *args[1:], **(kwargs or {})).half().float(), result)


class LlamaCppTarget:
    """llama.cpp by llama-cpp-python, on the CPU, one row at a time."""

    rounded = HalfGELU

    def __init__(self, path: Path, source: ExportSource) -> None:
        library: Any = importlib.import_module("llama_cpp")
        self._size, self._eos = source.tokenizer.vocab_size, source.tokenizer.eos_id
        context = source.config.context_length
        # The KV cache in float32, as everywhere else: llama.cpp's default is float16.
        self._model: Any = library.Llama(
            str(path), n_ctx=context, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
        )
        self.name = f"llama.cpp by llama-cpp-python {library.__version__}"
        self.rounding = "GELU in float16" if getattr(source.config, "activation", "") == "gelu_tanh" else ""
        self.read_as_space = SPACE_MARK if reads_marks_as_spaces(source.tokenizer) else ""

    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        return np.stack([self._evaluate(row.tolist()) for row in ids])

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation of each row, filled with the end after it."""
        rows = np.full((len(ids), max_tokens), self._eos, dtype=np.int64)
        for row, prompt in zip(rows, ids, strict=True):
            last = self._evaluate(prompt.tolist())[-1]
            for number in range(max_tokens):
                row[number] = int(last[: self._size].argmax())
                if row[number] == self._eos or number + 1 == max_tokens:
                    break
                self._model.eval([int(row[number])])
                last = self._model.scores[self._model.n_tokens - 1]
        return rows

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids that llama.cpp reads, with the first id that the file asks for."""
        return self._model.tokenize(text.encode(), add_bos=True, special=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self._model.detokenize(list(ids)).decode(errors="replace")

    def _evaluate(self, ids: list[int]) -> NDArray[np.float32]:
        self._model.reset()
        self._model.eval(ids)
        return np.array(self._model.scores[: self._model.n_tokens], dtype=np.float32)
