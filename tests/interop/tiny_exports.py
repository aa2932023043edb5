"""Tiny runs of every family and every kind of tokenizer, and their exports."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import BPE, SentencePiece
from fabella.engine.engine import State
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_names, tiny_config
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, save, set_best
from fabella.runs.run_dir import RunDir
from fabella.tokenizers import loading
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer

LENGTH = 40
TEXTS = [
    "Once upon a time there was a little girl named Lily. She liked to play in the park.",
    "The dog said: \"I am Max!\" Then they ran, and ran, and ran.\n\nThe end — été, 你好, 🙂.",
    "def f(x):\n\treturn  x[0] + 1  # two  spaces\r\n",
] * 20  # fmt: skip

PARTS = ["qk_norm", "attention_gate", "value_residual", "embedding_residual"]
MODELS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in family_names()),
    *(
        ("modern", {"convolution": size, "layer_pattern": pattern, "features": features, "init_std": 0.05})
        for pattern in ("a", "m", "ma")
        for size, features in (
            (0, []),
            (2, []),
            *((0, [part]) for part in PARTS),
            (4, ["attention_gate"]),
            (0, PARTS),
            (9, PARTS),
        )
    ),
]
"""Every family and every part of ``modern``: the models that exports hold."""


def make_run(
    path: Path,
    family: str,
    tokenizer: Tokenizer | None = None,
    *,
    prompts: Sequence[str] = ("Once upon a time",),
    **changes: Any,
) -> Path:
    """Write a run of the family's tiny config with random weights and a checkpoint at step 10."""
    tokenizer = tokenizer or ByteTokenizer()
    model = tiny_config(family).model_dump(mode="json") | {"context_length": LENGTH}
    model |= {"vocab_size": tokenizer.vocab_size + 3} | changes
    length = model["context_length"]
    config = RunConfig.model_validate(
        {
            "name": path.name,
            "samples": {"prompts": list(prompts)},
            "model": model,
            "tokenizer": {"kind": "bytes"},
            "data": {"sequences": {"kind": "packed", "length": length, "stride": length}},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "training": {"length": {"max_steps": 20}, "micro_batch_size": 2},
        }
    )
    run_dir = RunDir.create(path, config, {"seed": 1})
    run_dir.save_tokenizer(tokenizer)
    table = config.model.parameters()
    # Larger than initial weights, so that the logits differ and the completion depends on the prompt; vectors have
    # different numbers, so that their order shows.
    weights = {
        name: weight * 4
        if weight.ndim == 2
        else weight + np.linspace(0.05, 0.15, weight.size, dtype=np.float32).reshape(weight.shape)
        for name, weight in initial_weights(table, 7).items()
    }
    save(run_dir, 10, _checkpoint(weights, 10))
    set_best(run_dir, 10)
    return path


def add_checkpoints(run: Path, *steps: int) -> Path:
    """Save checkpoints with other weights at these steps, marked to be kept."""
    run_dir = RunDir.open(run)
    for step in steps:
        table = run_dir.run.model.parameters()
        weights = {name: weight * 4 for name, weight in initial_weights(table, step).items()}
        save(run_dir, step, _checkpoint(weights, step), keep=True)
    return run


def _checkpoint(weights: Mapping[str, NDArray[np.float32]], step: int) -> Checkpoint:
    return Checkpoint(State(weights, {}, {"step": step, "loss_scale": 1.0}), {})


def bpe() -> Tokenizer:
    """Return a byte-level BPE of 300 ids."""
    return loading.train(BPE(vocab_size=300), TEXTS)


def sentencepiece() -> Tokenizer:
    """Return a SentencePiece model of 340 pieces."""
    return loading.train(SentencePiece(vocab_size=340), TEXTS)
