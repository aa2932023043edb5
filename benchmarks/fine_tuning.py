"""Prove that fine-tuning the quickstart's model on a book is better than training on the book alone.

    python -m benchmarks.fine_tuning TEXT… [--parent RUN] [--steps 100] [--length 288] [--output FILE]

The parent is a run of the quickstart's preset; without --parent it is trained. Each child begins with its weights and
is trained on TEXT for a number of steps, at several shares of the parent's learning rate, with and without a warm-up. A
run from scratch has the same text, tokenizer, steps and batches, and the preset's own rate and schedule. Losses are
those on the whole held-out text of TEXT and on the parent's validation sequences, after the last step.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fabella.data.dataset import TokenizedDataset
from fabella.run_config.files import apply_overrides, preset, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.branch import InitialWeights
from fabella.runs.run_dir import RunDir
from fabella.storage import atomic_write
from fabella.training.fine_tuning.request import LR_FACTOR, resolve_training
from fabella.training.run import start_run
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.quickstart import PRESET
from fabella.training.setup.request import TrainRequest, prepare_data

FACTORS = (0.1, 0.3, 0.5, 1.0)
"""Shares of the parent's peak learning rate."""


def train_parent(directory: Path, steps: int) -> Path:
    """Train the quickstart's preset for ``steps`` steps."""
    settings = [f"training.length.max_steps={steps}", "name=quickstart"]
    run = validate_config(apply_overrides(preset(PRESET).model_dump(mode="json"), settings))
    return start_run(run, directory / "quickstart", prepare_data(run, directory / "prepared")).path


def measure(
    run: RunConfig, dataset: TokenizedDataset, initial: InitialWeights | None, directory: Path
) -> dict[str, Any]:
    """Train a run and return its losses and its time."""
    begin = time.perf_counter()
    result = start_run(run, directory, dataset, initial=initial)
    seconds = time.perf_counter() - begin
    old = [losses[-1][1] for losses in result.other_validation_losses.values()]
    return {
        "steps": result.progress.step,
        "lr": run.optimizer.lr,
        "warm_up": run.optimizer.schedule[0].end > run.optimizer.schedule[0].start,
        "loss_new": result.score.loss,
        "best_bits_per_byte_new": result.best.bits_per_byte if result.best else None,
        "loss_old": old[0] if old else None,
        "seconds": round(seconds, 1),
    }


def with_settings(run: RunConfig, *settings: str) -> RunConfig:
    """Return a config with changed settings."""
    return validate_config(apply_overrides(run.model_dump(mode="json"), settings))


def compare(text: Path, parent: Path, directory: Path, steps: int, length: int) -> dict[str, Any]:
    """Return the losses of fine-tuning and of training from scratch, on sequences of ``length`` tokens."""
    settings = (
        f"data.sequences={{kind: packed, length: {length}, stride: {length}}}", "samples.prompts=[]",
        "validation.num_sequences=64", f"validation.every_steps={steps}", f"checkpoint.every_steps={steps}",
    )  # fmt: skip
    request = TrainRequest(what=str(text), init_from=str(parent), steps=steps, overrides=settings)
    resolved, initial = resolve_training(request)
    dataset = prepare_request(resolved, directory / "prepared")
    run, rate = fit_request(resolved, dataset), RunDir.open(parent).run.optimizer.lr
    rows: list[dict[str, Any]] = []

    def add(kind: str, number: RunConfig, weights: InitialWeights | None, factor: float) -> None:
        row = measure(number, dataset, weights, directory / f"run-{len(rows)}")
        rows.append({"kind": kind, "factor": factor, **row})
        print(json.dumps(rows[-1]), file=sys.stderr)

    scratch = with_settings(run, f"optimizer.lr={rate}", "validation.also=[]")
    schedule = {"schedule": preset(PRESET).optimizer.schedule}
    scratch = scratch.model_copy(update={"optimizer": scratch.optimizer.model_copy(update=schedule)})
    add("scratch", scratch, None, 1.0)
    for factor in (LR_FACTOR, *(factor for factor in FACTORS if factor != LR_FACTOR)):
        add("fine-tuned", with_settings(run, f"optimizer.lr={factor * rate}"), initial, factor)
    constant = "optimizer.schedule=[{shape: cosine, start: 1.0, end: 0.1, length: 100%}]"
    add("fine-tuned", with_settings(run, f"optimizer.lr={LR_FACTOR * rate}", constant), initial, LR_FACTOR)
    first = next(row for row in _metrics(directory / "run-1") if row["kind"] == "validation_also")
    return {
        "text": text.name,
        "bytes": text.stat().st_size,
        "parent_steps": RunDir.open(parent).read_pointer("latest"),
        "loss_old_before": first["loss"],
        "length": length,
        "rows": rows,
        "holds": all(row["loss_new"] < rows[0]["loss_new"] for row in rows if _is_default(row)),
    }


def _is_default(row: dict[str, Any]) -> bool:
    return row["kind"] == "fine-tuned" and row["factor"] == LR_FACTOR and row["warm_up"]


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def main() -> int:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--parent", type=Path)
    parser.add_argument("--parent-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--length", type=int, default=288)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fine_tuning.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        parent = options.parent or train_parent(directory, options.parent_steps)
        texts = [compare(text, parent, directory / text.stem, options.steps, options.length) for text in options.text]
    result = {
        "preset": PRESET,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "texts": texts,
        "holds": all(text["holds"] for text in texts),
    }
    atomic_write(options.output, json.dumps(result, indent=1).encode() + b"\n")
    print(json.dumps({"holds": result["holds"], "output": str(options.output)}))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
