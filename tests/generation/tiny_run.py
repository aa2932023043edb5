"""A run folder as training leaves it, made in a moment: tiny weights that nobody trained."""

from pathlib import Path
from typing import Any

from fabella.engine.engine import State
from fabella.engine.engine_torch import for_training
from fabella.run_config.run import Run
from fabella.runs.checkpoint import Checkpoint, save, set_best
from fabella.runs.run_dir import RunFolder
from fabella.tokenizers.loading import train
from fabella.tokenizers.tokenizer import Tokenizer

LLAMA = {"family": "llama", "dim": 16, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 32}
MINGRU = {"family": "mingru", "dim": 16, "layers": 2, "hidden": 32}


def run(model: dict[str, Any] = LLAMA, *, windows: str = "chained", length: int = 32, vocabulary: int = 256) -> Run:
    """A run on bytes whose windows are ``length`` long, half of what its model has room for."""
    stride = {"stride": length} if windows == "chained" else {}
    return Run.model_validate(
        {
            "model": {**model, "vocabulary": vocabulary, "context": 2 * length},
            "tokenizer": {"kind": "bytes"},
            "data": {"windows": {"kind": windows, "length": length, **stride}},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "training": {"length": {"steps": 20}, "micro_batch": 2},
        }
    )


def make(path: Path, of: Run | None = None, *, steps: tuple[int, ...] = (10, 20), best: int = 10) -> Path:
    """Write the folder, with a checkpoint of different weights at each of ``steps``."""
    of = of or run()
    folder = RunFolder.create(path, of, {"seed": of.seed})
    folder.keep_tokenizer(tokenizer())
    state = for_training(of, "cpu").state()
    for step in steps:
        # Larger than the first weights, so that what is told depends on the prompt.
        weights = {name: array * (1 + step / 10) if array.ndim == 2 else array for name, array in state.weights.items()}
        save(folder, step, Checkpoint(State(weights, state.moments, {**state.numbers, "step": step}), {}))
        if step == best:
            set_best(folder, step)
    return path


def tokenizer() -> Tokenizer:
    """That of every such run."""
    return train(run().tokenizer, ())
