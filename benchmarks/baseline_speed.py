"""Compare training, decoding and start-up speed with an earlier commit, on one machine.

    python benchmarks/baseline_speed.py
    python benchmarks/baseline_speed.py piny-37m --baseline HEAD~3 --rounds 9 --output speed.json

Each round runs both trees, one after the other and in an order that alternates, each in processes of its own. A ratio
is the speed now divided by the speed before, for the two processes of one round; its median and quartiles are reported.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fingerprint_cases import has_former_names
from fingerprint_runs import Tree
from fingerprints import BASELINE, ROOT, git, machine, temporary_worktree

PRESETS = ["storybook-1m", "mingru-17m"]
TRAINING_STEPS, NEW_TOKENS = 3, 120


@dataclass(frozen=True, slots=True)
class Measurement:
    """The speed of one task in each round, before and now."""

    task: str
    unit: str
    before: list[float]
    now: list[float]

    def summary(self) -> dict[str, Any]:
        ratios = [now / before for now, before in zip(self.now, self.before, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return {
            "unit": self.unit, "before": self.before, "now": self.now,
            "ratio": statistics.median(ratios), "quartiles": [quartiles[0], quartiles[2]],
        }  # fmt: skip


def bench(tree: Tree, preset: str, *options: str) -> dict[str, Any]:
    """Run ``fabella bench`` in a tree, and return the results of the preset."""
    command = [sys.executable, "-m", "fabella", "bench", preset, "--json", *options]
    process = subprocess.run(
        command, env=tree.environment(), capture_output=True, text=True, cwd=tempfile.gettempdir(), check=True
    )
    return json.loads(process.stdout)["shapes"][preset]


def training_speed(tree: Tree, preset: str) -> float:
    """Return the tokens per second of training."""
    rounds = ["--turns", str(TRAINING_STEPS), "--alone"] if tree.former else ["--rounds", str(TRAINING_STEPS)]
    result = bench(tree, preset, *rounds, "--no-memory", "--only", "fabella")
    return result["contestants" if tree.former else "baselines"]["fabella"]["tokens_per_second"]


def decoding_speed(tree: Tree, preset: str) -> float:
    """Return the tokens per second of decoding one sequence, in float32."""
    options = ["--tokens", str(NEW_TOKENS), "--alone"] if tree.former else ["--max-tokens", str(NEW_TOKENS)]
    result = bench(tree, preset, "--decode", *options, "--only", "fabella")
    return result["1"]["contestants" if tree.former else "baselines"]["fabella"]["tokens_per_second"]


def starts_per_second(tree: Tree, _preset: str) -> float:
    """Return how often ``fabella --version`` runs in a second."""
    command = [sys.executable, "-m", "fabella", "--version"]
    start = time.perf_counter()
    subprocess.run(command, env=tree.environment(), capture_output=True, cwd=tempfile.gettempdir(), check=True)
    return 1 / (time.perf_counter() - start)


def measure(before: Tree, now: Tree, presets: list[str], rounds: int) -> list[Measurement]:
    """Measure every task on both trees, round by round."""
    tasks = [("start", "starts per second", starts_per_second, "")]
    tasks += [(f"training {preset}", "tokens per second", training_speed, preset) for preset in presets]
    tasks += [(f"decoding {preset}", "tokens per second", decoding_speed, preset) for preset in presets]
    results: list[Measurement] = []
    for task, unit, speed, preset in tasks:
        found: dict[Path, list[float]] = {before.path: [], now.path: []}
        for number in range(rounds):
            for tree in (before, now) if number % 2 else (now, before):
                found[tree.path].append(speed(tree, preset))
        results.append(Measurement(task, unit, found[before.path], found[now.path]))
        summary = results[-1].summary()
        print(f"{task}: {summary['ratio']:.3f} of the speed before, quartiles {summary['quartiles']}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--baseline", default=BASELINE, help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "baseline_speed.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, temporary_worktree(options.baseline, Path(folder) / "tree") as path:
        before, now = Tree(path, has_former_names(path)), Tree(ROOT, former=False)
        before.check()
        now.check()
        results = measure(before, now, options.presets, options.rounds)
    settings = {
        "date": date.today().isoformat(), "baseline": git("rev-parse", options.baseline),
        "commit": git("rev-parse", "HEAD"), "rounds": options.rounds, "training_steps": TRAINING_STEPS,
        "new_tokens": NEW_TOKENS, **machine(),
    }  # fmt: skip
    text = json.dumps({"settings": settings, "tasks": {r.task: r.summary() for r in results}}, indent=1)
    options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
