"""Who tells texts when speed is measured: Fabella, and other programs with the same shapes where they are at hand."""

import os
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask, InProcess, from_loop
from fabella.benchmark.peers import decoders_llama_cpp
from fabella.benchmark.peers.models_torch import build_peer, peer_of
from fabella.engine.device_torch import pick_device
from fabella.engine.engine_torch import load_model
from fabella.errors import FabellaError
from fabella.generation.decoder.backends_torch import compile_decoder
from fabella.generation.decoder.weights import WeightDtype
from fabella.generation.generate_torch import generate
from fabella.models.parameters import initial_weights

BANDWIDTH_BYTES = 2**28
"""Read to see how fast memory is: more than any cache holds."""


def available_baselines(telling: DecodeTask, *, alone: bool) -> list[DecodeBaseline]:
    """Everybody who has this family, can tell so many texts at once and is at hand; Fabella first."""
    found: list[DecodeBaseline] = [fabella(telling)]
    if pick_device(telling.device).type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines:
        found += [fabella(telling, "float16"), fabella(telling, "int8")]
    if alone:
        return found
    package = peer_of(telling.config)
    if package:
        found.append({"transformers": _transformers, "minGRU_pytorch": _mingru}[package](telling))
    if telling.llama2c and telling.config.family == "llama" and telling.batch == 1:
        found += [Llama2C(telling, "run"), Llama2C(telling, "runq")]
    if pick_device(telling.device).type == "cpu" and decoders_llama_cpp.supports(telling.config):
        found.append(decoders_llama_cpp.LlamaCpp(telling, torch.get_num_threads()))
    return found


def fabella(telling: DecodeTask, weights: WeightDtype = "float32") -> DecodeBaseline:
    """By the loop that ``fabella generate`` uses."""
    config = telling.config
    model: Any = load_model(config, initial_weights(config.parameters(), seed=1), telling.device)
    compile_decoder(model, weights)
    name = "fabella" if weights == "float32" else f"fabella {weights}"
    return from_loop(name, generate, model, telling)


def _transformers(telling: DecodeTask) -> DecodeBaseline:
    model, prompts = _peer(telling)
    model.config.use_cache = model.generation_config.use_cache = True
    wanted = {"max_new_tokens": telling.tokens, "min_new_tokens": telling.tokens, "do_sample": False, "pad_token_id": 0}

    def tell() -> None:
        with torch.inference_mode():
            model.generate(prompts, attention_mask=torch.ones_like(prompts), **wanted).cpu()

    return InProcess("transformers", tell)


def _mingru(telling: DecodeTask) -> DecodeBaseline:
    """With the hidden states that its model gives back; its own sampling loop does not keep them for many texts."""
    model, prompts = _peer(telling)

    def tell() -> None:
        with torch.inference_mode():
            tokens, hidden = prompts, None
            for _ in range(telling.tokens):
                logits, hidden = model(tokens, return_prev_hiddens=True, prev_hiddens=hidden)
                tokens = logits[:, -1].argmax(-1, keepdim=True)
            tokens.cpu()

    return InProcess("minGRU_pytorch", tell)


def _peer(telling: DecodeTask) -> tuple[Any, Tensor]:
    device = pick_device(telling.device)
    torch.manual_seed(1)
    model: Any = build_peer(telling.config)[0]
    return model.to(device).eval(), torch.from_numpy(telling.prompts.astype(np.int64)).to(device)


class Llama2C:
    """llama2.c (Karpathy 2023), a program of its own, compiled as it recommends: ``make runomp``.

    It is asked for as many tokens with no prompt, and its own measure is taken, which leaves out its start.
    """

    def __init__(self, telling: DecodeTask, program: str) -> None:
        """``program``: ``run``, or ``runq``, which multiplies bytes."""
        assert telling.llama2c
        self.name = "llama2.c" if program == "run" else "llama2.c int8"
        self._folder = tempfile.TemporaryDirectory(prefix="fabella-")
        here = Path(self._folder.name)
        (write_floats if program == "run" else write_bytes)(telling.config, here / "model.bin")
        _write_tokenizer(telling.config.vocab_size, here / "tokenizer.bin")
        self._tokens = telling.tokens
        self._command = [str(telling.llama2c / program), str(here / "model.bin"), "-z", str(here / "tokenizer.bin")]
        self._command += ["-t", "0", "-n", str(telling.tokens)]

    def tell(self) -> float:
        """See Contestant."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(self._command, capture_output=True, env=environment, check=False)
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode or "achieved tok/s: " not in said:
            raise FabellaError(f"{self._command[0]} ended with code {done.returncode}: {said or 'it said nothing'}.")
        return self._tokens / float(said.rsplit("achieved tok/s: ", 1)[1])

    def close(self) -> None:
        """See Contestant."""
        self._folder.cleanup()


def _matrices(config: Any) -> tuple[dict[str, NDArray[np.float32]], list[list[NDArray[np.float32]]]]:
    """All weights, and the layers' matrices in llama2.c's order. The token that would end the text is never likely."""
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


def write_floats(config: Any, path: Path) -> None:
    """A checkpoint of random weights as ``run`` reads it (llama2.c's ``legacy_export``); tied heads only."""
    weights, matrices = _matrices(config)
    parts = [_sizes(config), weights["embedding.weight"].tobytes(), _norms(config, weights, "attention_norm")]
    parts += [matrix.tobytes() for kind in matrices[:4] for matrix in kind]
    parts += [_norms(config, weights, "feed_forward_norm")]
    parts += [matrix.tobytes() for kind in matrices[4:] for matrix in kind]
    # Last, the angles of the positions, which the program passes over.
    parts += [weights["norm.weight"].tobytes(), bytes(config.context_length * config.dim // config.heads * 4)]
    path.write_bytes(b"".join(parts))


def write_bytes(config: Any, path: Path, group: int = 64) -> None:
    """A checkpoint of random weights as ``runq`` reads it (``version2_export``): a scale for every 64 weights."""
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
    """Every id is a word of its own: the program needs some text for it, and speed does not."""
    words = [f"w{number}".encode() for number in range(vocab_size)]
    rows = [struct.pack("fi", 0.0, len(word)) + word for word in words]
    path.write_bytes(struct.pack("i", max(map(len, words))) + b"".join(rows))


def read_bandwidth(device: str, *, seconds: float = 0.3) -> float:
    """Bytes a second that this machine reads from memory at best: what telling is bound by, as all weights are read."""
    picked = pick_device(device)
    numbers = torch.ones(BANDWIDTH_BYTES // 4, device=picked)
    float(numbers.sum())
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        float(numbers.sum())
        best = min(best, time.perf_counter() - start)
    return BANDWIDTH_BYTES / best
