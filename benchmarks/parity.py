"""Differences between the two engines for every preset at a reduced size: losses, gradients, 50 steps, greedy text.

Both engines get the same weights and the same batches. Differences are relative to the largest value of their kind.

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

TIME, ROWS, STEPS, MAX_TOKENS = 24, 8, 50, 60
SIZES = {"vocab_size": 61, "context_length": TIME, "embedding": 8, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1}
SIZES |= {"ffn_dim": 24, "dropout": 0.0}
GENERATE = {"torch": generate_torch.generate, "jax": generate_jax.generate}


def reduced(name: str) -> RunConfig:
    """Return the preset with a small model, its AdamW, two micro-batches per step and gradient clipping."""
    run = preset(name)
    values = run.model.model_dump()
    model: ModelConfig = type(run.model).model_validate(values | {k: v for k, v in SIZES.items() if k in values})
    sequences = Packed(length=TIME, stride=TIME)
    training = run.training.model_copy(update={"micro_batch_size": ROWS // 2, "compile": "none"})
    optimizer = run.optimizer if isinstance(run.optimizer, adamw.Config) else adamw.Config(lr=1e-3)
    optimizer = optimizer.model_copy(update={"max_grad_norm": 0.5, "lr": 1e-3})
    data = run.data.model_copy(update={"sequences": sequences})
    return run.model_copy(update={"model": model, "training": training, "optimizer": optimizer, "data": data})


def batch(seed: int) -> Batch:
    ids = np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (ROWS, TIME + 1)).astype(np.int32)
    return Batch(ids[:, :-1].copy(), ids[:, 1:].copy())


def max_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest difference, relative to the largest value of ``theirs``."""
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def compare(name: str) -> dict[str, float | bool]:
    """Return the differences of one preset."""
    run = reduced(name)
    built = {engine: engines.create_engine(run.model_copy(update={"engine": engine})) for engine in GENERATE}
    losses = {engine: instance.losses(batch(0)) for engine, instance in built.items()}
    histories: dict[str, list[float]] = {}
    first: dict[str, NDArray[Any]] = {}
    for engine, instance in built.items():
        histories[engine] = []
        for step in range(STEPS):
            histories[engine].append(instance.step(batch(step % 5), 1e-3).read()["loss"])
            if step == 0:  # Adam's first moments are the clipped gradients, times 1 - beta
                moments = instance.state().optimizer_state
                first[engine] = np.concatenate([moments[n].ravel() for n in sorted(moments) if n.startswith("first.")])
    weights = initial_weights(run.model.parameters(), 5)
    scaled = {n: array * 3 if array.ndim == 2 else array for n, array in weights.items()}
    prompt = [np.arange(1, 6, dtype=np.int32)]
    texts = [
        list(
            generate(
                engines.backend(engine, "build_model").load_model(run.model, scaled, "cpu"),
                prompt,
                SamplingParams(temperature=0.0),
                rows=[0],
                max_tokens=MAX_TOKENS,
                vocab_size=SIZES["vocab_size"],
            )
        )
        for engine, generate in GENERATE.items()
    ]
    return {
        "losses": max_difference(losses["jax"], losses["torch"]),
        "gradients": max_difference(first["jax"], first["torch"]),
        "fifty steps": max_difference(np.array(histories["jax"]), np.array(histories["torch"])),
        "greedy text the same": texts[0] == texts[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=preset_names())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "parity.json")
    arguments = parser.parse_args()
    results: dict[str, dict[str, float | bool]] = {}
    print("| preset | losses | gradients | fifty steps | greedy text |\n|---|--:|--:|--:|---|")
    for name in arguments.presets:
        row = results[name] = compare(name)
        numbers = " | ".join(f"{row[key]:.1e}" for key in ("losses", "gradients", "fifty steps"))
        print(f"| `{name}` | {numbers} | {'the same' if row['greedy text the same'] else 'differs'} |", flush=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
