"""How far the two engines are apart, for every preset at a reduced size: losses, gradients, fifty steps, greedy text.

The same weights and the same batches go into both. Numbers are relative to the largest of their kind.

    python benchmarks/parity.py
    python benchmarks/parity.py storybook-hybrid-1m --output parity.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed
from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.generation import generate_jax, generate_torch
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.optim import adamw
from fabella.run_config.files import preset, preset_names
from fabella.run_config.run import RunConfig

TIME, ROWS, STEPS, TOLD = 24, 8, 50, 60
SIZES = {"vocab_size": 61, "context_length": TIME, "embedding": 8, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1}
SIZES |= {"ffn_dim": 24, "dropout": 0.0}
TELL = {"torch": generate_torch.generate, "jax": generate_jax.generate}


def reduced(name: str) -> RunConfig:
    """The preset, small, with AdamW as it has it, two micro-batches a step and a norm that is clipped."""
    run = preset(name)
    values = run.model.model_dump()
    model: ModelConfig = type(run.model).model_validate(values | {k: v for k, v in SIZES.items() if k in values})
    windows = Packed(length=TIME, stride=TIME)
    training = run.training.model_copy(update={"micro_batch_size": ROWS // 2, "compile": "none"})
    optimizer = run.optimizer if isinstance(run.optimizer, adamw.Config) else adamw.Config(lr=1e-3)
    optimizer = optimizer.model_copy(update={"max_grad_norm": 0.5, "lr": 1e-3})
    data = run.data.model_copy(update={"windows": windows})
    return run.model_copy(update={"model": model, "training": training, "optimizer": optimizer, "data": data})


def batch(seed: int) -> Batch:
    ids = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (ROWS, TIME + 1)).astype(np.int32)
    return Batch(ids[:, :-1].copy(), ids[:, 1:].copy())


def far(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def compare(name: str) -> dict[str, float | bool]:
    """One row of the table."""
    run = reduced(name)
    made = {engine: engines.create_engine(run.model_copy(update={"engine": engine})) for engine in TELL}
    losses = {engine: one.losses(batch(0)) for engine, one in made.items()}
    courses: dict[str, list[float]] = {}
    first: dict[str, NDArray[Any]] = {}
    for engine, one in made.items():
        courses[engine] = []
        for step in range(STEPS):
            courses[engine].append(one.step(batch(step % 5), 1e-3).read()["loss"])
            if step == 0:  # Adam's first moments are the clipped gradients, times 1 - beta
                moments = one.state().optimizer_state
                first[engine] = np.concatenate([moments[n].ravel() for n in sorted(moments) if n.startswith("first.")])
    weights = initial_weights(run.model.parameters(), 5)
    louder = {n: array * 3 if array.ndim == 2 else array for n, array in weights.items()}
    prompt = [np.arange(1, 6, dtype=np.int32)]
    texts = [
        list(
            tell(
                engines.load(engine).load_model(run.model, louder, "cpu"),
                prompt,
                SamplingParams(temperature=0.0),
                rows=[0],
                max_tokens=TOLD,
                vocab_size=SIZES["vocab_size"],
            )
        )
        for engine, tell in TELL.items()
    ]
    return {
        "losses": far(losses["jax"], losses["torch"]),
        "gradients": far(first["jax"], first["torch"]),
        "fifty steps": far(np.array(courses["jax"]), np.array(courses["torch"])),
        "greedy text the same": texts[0] == texts[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=preset_names())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "parity.json")
    asked = parser.parse_args()
    results: dict[str, dict[str, float | bool]] = {}
    print("| preset | losses | gradients | fifty steps | greedy text |\n|---|--:|--:|--:|---|")
    for name in asked.presets:
        row = results[name] = compare(name)
        numbers = " | ".join(f"{row[key]:.1e}" for key in ("losses", "gradients", "fifty steps"))
        print(f"| `{name}` | {numbers} | {'the same' if row['greedy text the same'] else 'differs'} |", flush=True)
    asked.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
