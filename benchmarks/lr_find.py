"""Prove that the rate of `fabella tune --lr-find` is better than a third and three times of it.

    python -m benchmarks.lr_find [--steps 100] [--presets storybook-1m] [--output FILE]

Three presets, on Fabella's own stories, scaled to a vocabulary of 1,024 and batches of 8 × 64 tokens. The rate is found
with the preset's seed; the proof trains at r/3, r and 3·r with two other seeds. Presets that are already in the file,
measured with the same settings, are kept.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from fabella.run_config.files import load_config
from fabella.training.setup.request import prepare_data
from fabella.tuning.lr_search import find_rate, trained_loss

PRESETS = ("storybook-1m", "storybook-hybrid-1m", "tinystories-1m")
SETTINGS = (
    "data.source={kind: storybook, stories: 2000}",
    "data.validation={kind: holdout, fraction: 0.01}",
    "tokenizer={kind: bpe, vocab_size: 1024}",
    "model.vocab_size=1024",
    "data.sequences={kind: packed, length: 64, stride: 64}",
    "training.micro_batch_size=8",
    "training.gradient_accumulation=[[0, 1]]",
    "validation.num_sequences=256",
)
PROOF_SEEDS = (101, 102)


def measure(name: str, steps: int, directory: Path) -> dict[str, Any]:
    """Find the rate of a preset and train at a third, once and three times of it; return the mean losses."""
    run = load_config(name, SETTINGS)
    dataset = prepare_data(run, directory)
    found = find_rate(run, dataset, steps=steps, report=lambda text: print(f"{name}: {text}", file=sys.stderr))
    rates = (found.suggested / 3, found.suggested, found.suggested * 3)
    losses = [
        fmean(trained_loss(run.model_copy(update={"seed": seed}), dataset, rate, steps=steps) for seed in PROOF_SEEDS)
        for rate in rates
    ]
    return {
        "preset": name,
        "optimizer": run.optimizer.kind,
        "lr": found.suggested,
        "interval": found.interval,
        "range_test_lowest": found.test.lowest,
        "trainings": [{"lr": rate, "loss": loss} for rate, loss in found.losses.items()],
        "proof": [{"lr": rate, "loss": loss} for rate, loss in zip(rates, losses, strict=True)],
        "holds": losses[1] < min(losses[0], losses[2]),
    }


def main() -> int:
    """Write the results as JSON; return 1 if the rate of a preset does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/lr_find.json"))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"steps": arguments.steps, "seeds": list(PROOF_SEEDS), "settings": list(SETTINGS)}
    before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    kept = before["presets"] if {**before, "presets": []} == {**result, "presets": []} else []
    with tempfile.TemporaryDirectory() as directory:
        presets = [measure(name, arguments.steps, Path(directory)) for name in arguments.presets]
    presets += [preset for preset in kept if preset["preset"] not in arguments.presets]
    result["presets"] = sorted(presets, key=lambda preset: PRESETS.index(preset["preset"]))
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(preset["holds"] for preset in presets) else 1


if __name__ == "__main__":
    sys.exit(main())
