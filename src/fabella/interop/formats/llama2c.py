"""llama2.c (Karpathy 2023): ``model.bin`` and ``tokenizer.bin`` as run.c reads them, in float32; and their import.

    header    7 x int32: dim, ffn_dim, layers, heads, kv_heads, ±vocab_size, context_length   (negative: untied head)
    weights   float32: embedding · attention norms · query · key · value · output · feed-forward norms · gate · down ·
              up · final norm · 2 rotary tables that run.c skips · head if it is not tied; each for all layers

run.c rotates neighboring dimensions of a head, (0, 1), (2, 3) …; Fabella rotates i with i + E/2: queries and keys are
reordered. run.c fixes the rotary base at 10,000 and the epsilon of its norms at 1e-5. Its prompts begin with token 1,
which also ends a text.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fabella.errors import CheckpointError, UsageError
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.imported_model import ImportedModel
from fabella.interop.llama2c_tokenizer import (
    BOS,
    Llama2CTokenizer,
    find_tokenizer,
    to_tokenizer,
    write_tokenizer,
)
from fabella.interop.source import ExportSource
from fabella.interop.tensor_map import TensorRow, pack, row, unpack
from fabella.models.llama import Config
from fabella.runs.safetensors_io import is_pickle
from fabella.storage import storage_errors
from fabella.storage.messages import escaped_path
from fabella.tokenizers.tokenizer import Tokenizer

PRECISIONS = ("float32",)
PACKAGES: Sequence[str] = ()
REASONS = {"int8": "runq.c rounds activations as well, so that its text differs"}
MODEL, TOKENIZER = "model.bin", "tokenizer.bin"
HEADER = struct.Struct("<7i")
MAGIC_OF_LATER_VERSIONS = b"24ka"
ROTARY_BASE, NORM_EPS = 10_000.0, 1e-5
MAX_SIZE = 2**24
ORDER = ("query", "key", "value", "output")
FFN_ORDER = ("gate", "down", "up")


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write model and tokenizer. Raises UsageError for a model that run.c does not compute."""
    config = source.config
    if not isinstance(config, Config):
        raise UsageError(
            f"run.c computes Llama only; this model is of family {config.family}.", hint="Use --to hf or --to gguf."
        )
    if config.rotary_base != ROTARY_BASE or not math.isclose(config.norm_eps, NORM_EPS):
        raise UsageError(
            f"run.c fixes model.rotary_base = 10000 and model.norm_eps = 1e-5; this model has {config.rotary_base:g} "
            f"and {config.norm_eps:g}.",
            hint="Use --to hf or --to gguf.",
        )
    tensors = pack(_rows(config), source.weights)
    vocab = config.vocab_size if config.tie_embeddings else -config.vocab_size
    sizes = (config.dim, config.ffn_dim, config.layers, config.heads, config.kv_heads, vocab, config.context_length)
    with (directory / MODEL).open("wb") as file:
        file.write(HEADER.pack(*sizes))
        for name, tensor in tensors.items():
            if name == "head.weight":
                file.write(bytes(_rotary_bytes(config)))
            file.write(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
        if config.tie_embeddings:
            file.write(bytes(_rotary_bytes(config)))
    write_tokenizer(directory / TOKENIZER, source.tokenizer, config.vocab_size)


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Read both files back with the algorithm of run.c in numpy."""
    return RunCTarget(directory / MODEL, Llama2CTokenizer.read(directory / TOKENIZER), source.tokenizer)


def recognizes(path: Path) -> bool:
    """Return whether ``path`` is a file, or a folder with a ``model.bin``, that may be a model of llama2.c."""
    file = _model_file(path)
    if file.suffix != ".bin" or not file.is_file() or (path / "config.json").exists():
        return False
    with storage_errors(file, f"reading {file.name}"), file.open("rb") as opened:
        beginning = opened.read(HEADER.size)
    # The first size may look like the opcode of an old pickle; seven plausible sizes are no pickle.
    return _is_plausible(beginning) or not is_pickle(beginning[:16])


def read(path: Path) -> ImportedModel:
    """Read a model and the tokenizer next to it: ``tokenizer.bin``, or the only other ``tok*.bin``."""
    file = _model_file(path)
    config = _read_header(file)
    tensors = _read_tensors(file, config)
    weights = unpack(_rows(config), tensors, config.parameters(), where=escaped_path(file))
    tokenizer_path = find_tokenizer(file)
    tokenizer = to_tokenizer(Llama2CTokenizer.read(tokenizer_path), tokenizer_path)
    return ImportedModel(
        source="llama2.c file", config=config, weights=weights, tokenizer=tokenizer,
        tokenizer_source=str(tokenizer_path),
    )  # fmt: skip


def _model_file(path: Path) -> Path:
    return path / MODEL if path.is_dir() else path


def _rows(config: Config) -> list[TensorRow]:
    """Return the tensors in the order of the file; every layer is one row, so that nothing is stacked in memory."""
    heads = {"query": config.heads, "key": config.kv_heads}
    names = [row("embedding.weight", "embedding.weight")]
    layers = range(config.layers)

    def every_layer(name: str, rotary_heads: int = 0) -> list[TensorRow]:
        full = [f"blocks.{layer}.{name}.weight" for layer in layers]
        return [TensorRow(name, (name,), rotary_heads=rotary_heads) for name in full]

    names += every_layer("attention_norm")
    names += [item for name in ORDER for item in every_layer(f"attention.{name}", heads.get(name, 0))]
    names += every_layer("feed_forward_norm")
    names += [item for name in FFN_ORDER for item in every_layer(f"feed_forward.{name}")]
    names.append(row("norm.weight", "norm.weight"))
    return names if config.tie_embeddings else [*names, row("head.weight", "head.weight")]


def _rotary_bytes(config: Config) -> int:
    """Return the size of the two rotary tables, which run.c skips."""
    return config.context_length * (config.dim // config.heads) * 4


def _is_plausible(header: bytes) -> bool:
    return len(header) == HEADER.size and all(0 < abs(size) < MAX_SIZE for size in HEADER.unpack(header))


def _read_header(path: Path) -> Config:
    """Return the config. Raises CheckpointError unless the file has exactly the size that its header says."""
    shown = escaped_path(path)
    with storage_errors(path, f"reading {path.name}"), path.open("rb") as file:
        data = file.read(HEADER.size)
        size = path.stat().st_size
    if data[:4] == MAGIC_OF_LATER_VERSIONS:
        raise CheckpointError(
            f"{shown} has llama2.c's format 1 or 2; Fabella reads format 0, that of run.c.",
            hint="Export it again with llama2.c: python export.py model.bin --version 0",
        )
    if not _is_plausible(data):
        raise CheckpointError(
            f"{shown} is not a model of llama2.c: its header has sizes that no model has.", hint="Get the file again."
        )
    dim, ffn_dim, layers, heads, kv_heads, vocab, length = HEADER.unpack(data)
    config = Config(
        vocab_size=abs(vocab), context_length=length, dim=dim, layers=layers, heads=heads, kv_heads=kv_heads,
        ffn_dim=ffn_dim, rotary_base=ROTARY_BASE, norm_eps=NORM_EPS, tie_embeddings=vocab > 0,
    )  # fmt: skip
    expected = HEADER.size + 4 * sum(spec.size for spec in config.parameters().values()) + _rotary_bytes(config)
    if size != expected:
        raise CheckpointError(
            f"{shown} has {size:,} bytes; a model of its sizes has {expected:,}.", hint="Get the file again."
        )
    return config


def _read_tensors(path: Path, config: Config) -> dict[str, NDArray[np.float32]]:
    table, position = config.parameters(), HEADER.size
    tensors: dict[str, NDArray[np.float32]] = {}
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for item in _rows(config):
        if item.theirs == "head.weight":
            position += _rotary_bytes(config)
        spec = table[item.ours[0]]
        part = data[position : position + 4 * spec.size]
        tensors[item.theirs] = np.frombuffer(part.tobytes(), dtype="<f4").reshape(spec.shape)
        position += 4 * spec.size
    return tensors


class RunCTarget:
    """``forward`` of run.c in numpy, one token at a time with its KV cache, on the weights as they are in the file."""

    tokenizer_note = (
        "the same texts; but run.c puts a space before each prompt and misreads characters without a token, since "
        "the tokenizer is not one of llama2.c"
    )

    def __init__(self, path: Path, tokenizer: Llama2CTokenizer, ours: Tokenizer) -> None:
        self._config = _read_header(path)
        self._weights = _read_tensors(path, self._config)
        self._tokenizer, self._size = tokenizer, ours.vocab_size
        # Other tokenizers than those of llama2.c: no space first, or the bytes at other ids than run.c assumes.
        self._is_alike = ours.encode("a").tolist() == tokenizer.encode("a") and tokenizer.has_bytes_in_place
        self.name = "run.c's algorithm in numpy, reading model.bin and tokenizer.bin"

    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        return np.stack([np.stack(self._steps(row, len(row))[0]) for row in ids])

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the most likely next ids of each row."""
        length = ids.shape[1] + max_tokens
        return np.array([self._steps(row, length)[1][ids.shape[1] :] for row in ids], dtype=np.int64)

    def encode(self, text: str) -> Sequence[int] | None:
        """Return the ids that run.c reads, token 1 first; None for a tokenizer that does not begin with a space."""
        return [BOS, *self._tokenizer.encode(text)] if self._is_alike else None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that run.c prints, with its first space."""
        return self._tokenizer.decode([number for number in ids if number > BOS + 1])

    def _steps(self, prompt: Int[NDArray[np.int64], " T"], length: int) -> tuple[list[NDArray[np.float32]], list[int]]:
        """Return logits after each id but the last one that is generated, and prompt with generated ids."""
        ids, rows = [int(number) for number in prompt], list[NDArray[np.float32]]()
        keys: list[list[NDArray[np.float32]]] = [[] for _ in range(self._config.layers)]
        values: list[list[NDArray[np.float32]]] = [[] for _ in range(self._config.layers)]
        while len(rows) < max(len(prompt), length - 1):
            rows.append(self._forward(ids[len(rows)], len(rows), keys, values))
            if len(rows) == len(ids) and len(ids) < length:
                ids.append(int(rows[-1][: self._size].argmax()))
        return rows, ids

    def _forward(
        self, token: int, position: int, keys: list[list[NDArray[np.float32]]], values: list[list[NDArray[np.float32]]]
    ) -> NDArray[np.float32]:
        c, w = self._config, self._weights
        size, group = c.dim // c.heads, c.heads // c.kv_heads
        x = w["embedding.weight"][token].copy()
        for layer in range(c.layers):
            name = f"blocks.{layer}."
            y = _rms_norm(x, w[f"{name}attention_norm.weight"])
            query = _rotate((w[f"{name}attention.query.weight"] @ y).reshape(c.heads, size), position)
            keys[layer].append(_rotate((w[f"{name}attention.key.weight"] @ y).reshape(c.kv_heads, size), position))
            values[layer].append((w[f"{name}attention.value.weight"] @ y).reshape(c.kv_heads, size))
            grouped, scale = query.reshape(c.kv_heads, group, size), np.float32(size**0.5)
            scores = np.einsum("kge,tke->kgt", grouped, np.stack(keys[layer])) / scale
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            attended = np.einsum("kgt,tke->kge", weights, np.stack(values[layer])).reshape(-1)
            x += w[f"{name}attention.output.weight"] @ attended
            y = _rms_norm(x, w[f"{name}feed_forward_norm.weight"])
            gate = w[f"{name}feed_forward.gate.weight"] @ y
            x += w[f"{name}feed_forward.down.weight"] @ (
                gate / (1 + np.exp(-gate)) * (w[f"{name}feed_forward.up.weight"] @ y)
            )
        return w.get("head.weight", w["embedding.weight"]) @ _rms_norm(x, w["norm.weight"])


def _rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return weight * (x / np.sqrt(np.mean(x * x) + np.float32(NORM_EPS)))


def _rotate(x: Float[NDArray[np.float32], "H E"], position: int) -> Float[NDArray[np.float32], "H E"]:
    """Rotate the neighboring dimensions (0, 1), (2, 3) … of each head."""
    pairs = np.arange(0, x.shape[1], 2, dtype=np.float32)
    angles = np.float32(position) / np.float32(ROTARY_BASE) ** (pairs / np.float32(x.shape[1]))
    cos, sin = np.cos(angles), np.sin(angles)
    even, odd = x[:, 0::2], x[:, 1::2]
    return np.stack((even * cos - odd * sin, even * sin + odd * cos), axis=2).reshape(x.shape)
