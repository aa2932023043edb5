"""Run directory as training writes it, with tiny untrained weights."""

from pathlib import Path
from typing import Any

from fabella.engine.engine import State
from fabella.engine.engine_torch import create_engine
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, save, set_best
from fabella.runs.run_dir import RunDir
from fabella.tokenizers.loading import train
from fabella.tokenizers.tokenizer import Tokenizer

LLAMA = {"family": "llama", "dim": 16, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 32}
MINGRU = {"family": "mingru", "dim": 16, "layers": 2, "ffn_dim": 32}

LENGTH = 32
"""Tokens of a training sequence: half the context length of the model."""


def run(model: dict[str, Any] = LLAMA, *, vocab_size: int = 256) -> RunConfig:
    """Return the config of a run on bytes with packed sequences."""
    return RunConfig.model_validate(
        {
            "model": {**model, "vocab_size": vocab_size, "context_length": 2 * LENGTH},
            "tokenizer": {"kind": "bytes"},
            "data": {"sequences": {"kind": "packed", "length": LENGTH, "stride": LENGTH}},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "training": {"length": {"max_steps": 20}, "micro_batch_size": 2},
        }
    )


def make(path: Path, config: RunConfig | None = None, *, steps: tuple[int, ...] = (10, 20), best: int = 10) -> Path:
    """Write the run directory, with a checkpoint of different weights at each of ``steps``."""
    config = config or run()
    run_dir = RunDir.create(path, config, {"seed": config.seed})
    run_dir.save_tokenizer(tokenizer())
    state = create_engine(config, "cpu").state()
    for step in steps:
        # Larger than initial weights, so that the completion depends on the prompt.
        weights = {name: array * (1 + step / 10) if array.ndim == 2 else array for name, array in state.weights.items()}
        save(run_dir, step, Checkpoint(State(weights, state.optimizer_state, {**state.scalars, "step": step}), {}))
        if step == best:
            set_best(run_dir, step)
    return path


def tokenizer() -> Tokenizer:
    """Return the tokenizer of every such run."""
    return train(run().tokenizer, ())
