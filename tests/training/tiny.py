"""Config and dataset of a run that trains in seconds: byte tokens, a few thousand parameters, all callbacks."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.data.prepare.pipeline import prepare
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from fabella.training.callbacks.throughput import THROUGHPUT_KEYS

# Fixed here, so that tests do not change with the presets.
LEARNING = [
    "model.init_std=0.08", "optimizer.lr=4e-3", "optimizer.betas=[0.9, 0.95]", "optimizer.weight_decay=0.1",
    "optimizer.schedule=[{shape: linear, start: 0.0, end: 1.0, length: 5%}, "
    "{shape: cosine, start: 1.0, end: 0.1, length: 95%}]",
]  # fmt: skip
# Changing gradient accumulation, dropout, a schedule, several epochs, validation, samples and checkpoints.
SETTINGS = [
    *LEARNING,
    "model.vocab_size=256", "model.context_length=32", "model.dim=16", "model.layers=2", "model.heads=2",
    "model.kv_heads=1", "model.ffn_dim=24", "model.dropout=0.1", "tokenizer.kind=bytes", "data.source.stories=24",
    "data.validation.fraction=0.1", "data.sequences={kind: packed, length: 32, stride: 32}",
    "training.micro_batch_size=8", "training.gradient_accumulation=[[0, 2], [12, 3], [20, 4]]",
    "training.log_every_steps=3", "validation.every_steps=7", "validation.num_sequences=8",
    "checkpoint.every_steps=5", "samples.every_steps=10", "samples.max_tokens=8",
]  # fmt: skip
STEPS = 40


def run(*overrides: str, steps: int = STEPS) -> RunConfig:
    return load_config("storybook-1m", [*SETTINGS, f"training.length.max_steps={steps}", *overrides])


def prepared(folder: Path, of: RunConfig | None = None) -> TokenizedDataset:
    of = of or run()
    return prepare(of.data, of.tokenizer, folder / "prepared", workers=1)


def fingerprint(folder: Path) -> str:
    """Return the sha256 of weights, average, optimizer state, scalars, metrics (without timings) and samples."""
    digest = hashlib.sha256()
    checkpoint = folder / "checkpoints" / (folder / "latest").read_text().strip()
    for name in ("model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"):
        if name != "average.safetensors" or (checkpoint / name).exists():
            digest.update((checkpoint / name).read_bytes())
    digest.update(json.dumps(metrics(folder)).encode())
    digest.update((folder / "samples.jsonl").read_bytes())
    return digest.hexdigest()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows without values that depend on the speed of the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in THROUGHPUT_KEYS} for row in rows]
