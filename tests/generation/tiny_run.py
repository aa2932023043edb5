"""A run folder as training leaves it, made in a moment: tiny weights that nobody trained."""

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


def run(
    model: dict[str, Any] = LLAMA, *, windows: str = "packed", length: int = 32, vocab_size: int = 256
) -> RunConfig:
    """A run on bytes whose windows are ``length`` long, half of what its model has room for."""
    stride = {"stride": length} if windows == "packed" else {}
    return RunConfig.model_validate(
        {
            "model": {**model, "vocab_size": vocab_size, "context_length": 2 * length},
            "tokenizer": {"kind": "bytes"},
            "data": {"sequences": {"kind": windows, "length": length, **stride}},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "training": {"length": {"max_steps": 20}, "micro_batch_size": 2},
        }
    )


def make(path: Path, of: RunConfig | None = None, *, steps: tuple[int, ...] = (10, 20), best: int = 10) -> Path:
    """Write the folder, with a checkpoint of different weights at each of ``steps``."""
    of = of or run()
    folder = RunDir.create(path, of, {"seed": of.seed})
    folder.save_tokenizer(tokenizer())
    state = create_engine(of, "cpu").state()
    for step in steps:
        # Larger than the first weights, so that what is told depends on the prompt.
        weights = {name: array * (1 + step / 10) if array.ndim == 2 else array for name, array in state.weights.items()}
        save(folder, step, Checkpoint(State(weights, state.optimizer_state, {**state.scalars, "step": step}), {}))
        if step == best:
            set_best(folder, step)
    return path


def tokenizer() -> Tokenizer:
    """That of every such run."""
    return train(run().tokenizer, ())
