"""Decoders of the benchmark: Fabella, and other libraries and programs with the same architecture."""

import os
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.peers import decoders_llama_cpp
from benchmarks.peers.models_torch import build_peer, peer_of
from fabella.benchmark import decoders_torch as fabella_decoders
from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask, InProcessDecoder
from fabella.engine.device_torch import pick_device
from fabella.errors import FabellaError
from fabella.models.parameters import initial_weights


def available_baselines(task: DecodeTask, *, llama2c: Path | None = None) -> list[DecodeBaseline]:
    """Return Fabella, then every installed peer that has this family and decodes batches of this size.

    ``llama2c``: directory of llama2.c's compiled programs ``run`` and ``runq``.
    """
    baselines = fabella_decoders.available_baselines(task)
    package = peer_of(task.config)
    if package:
        baselines.append({"transformers": _transformers, "minGRU_pytorch": _mingru}[package](task))
    if llama2c and task.config.family == "llama" and task.batch == 1:
        baselines += [Llama2C(task, llama2c / "run"), Llama2C(task, llama2c / "runq")]
    if pick_device(task.device).type == "cpu" and decoders_llama_cpp.supports(task.config):
        baselines.append(decoders_llama_cpp.LlamaCpp(task, torch.get_num_threads()))
    return baselines


def _transformers(task: DecodeTask) -> DecodeBaseline:
    model, prompts = _peer(task)
    model.config.use_cache = model.generation_config.use_cache = True
    options = {"max_new_tokens": task.tokens, "min_new_tokens": task.tokens, "do_sample": False, "pad_token_id": 0}

    def run() -> None:
        with torch.inference_mode():
            model.generate(prompts, attention_mask=torch.ones_like(prompts), **options).cpu()

    return InProcessDecoder("transformers", run)


def _mingru(task: DecodeTask) -> DecodeBaseline:
    """Decode with the hidden states that the model returns; its own sampling loop does not keep them for batches."""
    model, prompts = _peer(task)

    def run() -> None:
        with torch.inference_mode():
            tokens, hidden = prompts, None
            for _ in range(task.tokens):
                logits, hidden = model(tokens, return_prev_hiddens=True, prev_hiddens=hidden)
                tokens = logits[:, -1].argmax(-1, keepdim=True)
            tokens.cpu()

    return InProcessDecoder("minGRU_pytorch", run)


def _peer(task: DecodeTask) -> tuple[Any, Tensor]:
    device = pick_device(task.device)
    torch.manual_seed(1)
    model: Any = build_peer(task.config)[0]
    return model.to(device).eval(), torch.from_numpy(task.prompts.astype(np.int64)).to(device)


class Llama2C:
    """llama2.c (Karpathy 2023), a separate program, compiled as it recommends: ``make runomp``.

    It decodes as many tokens without a prompt; the speed that it reports excludes its start.
    """

    def __init__(self, task: DecodeTask, program: Path) -> None:
        """``program``: path of ``run``, or of ``runq``, which multiplies int8 weights."""
        quantized = program.name == "runq"
        self.name = "llama2.c int8" if quantized else "llama2.c"
        self._directory = tempfile.TemporaryDirectory(prefix="fabella-")
        directory = Path(self._directory.name)
        (write_int8 if quantized else write_float32)(task.config, directory / "model.bin")
        _write_tokenizer(task.config.vocab_size, directory / "tokenizer.bin")
        self._tokens = task.tokens
        self._command = [str(program), str(directory / "model.bin"), "-z", str(directory / "tokenizer.bin")]
        self._command += ["-t", "0", "-n", str(task.tokens)]

    def decode(self) -> float:
        """Run the program once and return the seconds that it reports for decoding."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        process = subprocess.run(self._command, capture_output=True, env=environment, check=False)
        output = process.stderr.decode(errors="replace").strip()
        if process.returncode or "achieved tok/s: " not in output:
            raise FabellaError(f"{self._command[0]} ended with code {process.returncode}: {output or 'no output'}.")
        return self._tokens / float(output.rsplit("achieved tok/s: ", 1)[1])

    def close(self) -> None:
        """Remove the model files."""
        self._directory.cleanup()


def _matrices(config: Any) -> tuple[dict[str, NDArray[np.float32]], list[list[NDArray[np.float32]]]]:
    """Return all weights, and the layers' matrices in llama2.c's order; the token that ends a text stays improbable."""
    weights = initial_weights(config.parameters(), seed=1)
    weights["embedding.weight"][:2] = 0.0
    order = ["attention.query", "attention.key", "attention.value", "attention.output"]
    order += ["feed_forward.gate", "feed_forward.down", "feed_forward.up"]
    layers = range(config.layers)
    return weights, [[weights[f"blocks.{layer}.{name}.weight"] for layer in layers] for name in order]


def _sizes(config: Any) -> bytes:
    c = config
    return struct.pack("7i", c.dim, c.ffn_dim, c.layers, c.heads, c.kv_heads, c.vocab_size, c.context_length)


def _norms(config: Any, weights: dict[str, NDArray[np.float32]], name: str) -> bytes:
    return b"".join(weights[f"blocks.{layer}.{name}.weight"].tobytes() for layer in range(config.layers))


def write_float32(config: Any, path: Path) -> None:
    """Write random weights in the format of ``run`` (llama2.c's ``legacy_export``); tied heads only."""
    weights, matrices = _matrices(config)
    parts = [_sizes(config), weights["embedding.weight"].tobytes(), _norms(config, weights, "attention_norm")]
    parts += [matrix.tobytes() for kind in matrices[:4] for matrix in kind]
    parts += [_norms(config, weights, "feed_forward_norm")]
    parts += [matrix.tobytes() for kind in matrices[4:] for matrix in kind]
    # Last, the rotary table, which the program skips.
    parts += [weights["norm.weight"].tobytes(), bytes(config.context_length * config.dim // config.heads * 4)]
    path.write_bytes(b"".join(parts))


def write_int8(config: Any, path: Path, group: int = 64) -> None:
    """Write random weights in the format of ``runq`` (``version2_export``): a scale for every ``group`` weights."""
    weights, matrices = _matrices(config)
    header = struct.pack("Ii", 0x616B3432, 2) + _sizes(config) + struct.pack("<Bi", 1, group)
    parts = [header.ljust(256, b"\0"), _norms(config, weights, "attention_norm")]
    parts += [_norms(config, weights, "feed_forward_norm"), weights["norm.weight"].tobytes()]
    for matrix in [weights["embedding.weight"], *(matrix for kind in matrices for matrix in kind)]:
        groups = matrix.reshape(-1, group)
        scales = (np.abs(groups).max(1) / 127).clip(1e-12)
        parts += [np.round(groups / scales[:, None]).astype(np.int8).tobytes(), scales.astype(np.float32).tobytes()]
    path.write_bytes(b"".join(parts))


def _write_tokenizer(vocab_size: int, path: Path) -> None:
    """Write a tokenizer with an arbitrary word per token id, because the program needs one."""
    words = [f"w{number}".encode() for number in range(vocab_size)]
    rows = [struct.pack("fi", 0.0, len(word)) + word for word in words]
    path.write_bytes(struct.pack("i", max(map(len, words))) + b"".join(rows))
