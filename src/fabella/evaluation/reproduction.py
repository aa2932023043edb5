"""Train a preset of a published system, and record what came out next to what was published.

The published trainings took hours on GPUs. What a shorter one shows depends on what was changed, so the receipt lists
every setting that differs from the preset, the compute, the hardware and the sha256 of the weights. The same command
with the same seed gives the same weights on the same kind of machine.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fabella.engine import engine as engines
from fabella.errors import UsageError
from fabella.models.flops import flops_per_token
from fabella.report.run_history import settings
from fabella.run_config.files import load_config, preset, preset_names
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import MODEL
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir, step_name
from fabella.storage import manifest_entries, read_manifest
from fabella.training.session import TrainResult
from fabella.training.setup.quickstart import seconds_of_step

RECEIPT = "reproduction.json"
FORMAT = 1
TRAINING_SHARE = 0.85
"""Share of the time spent in training steps; the rest is preparing, validation, samples and saving."""
TIMED_STEPS = 3
NOT_A_CHANGE = ("name", "about.")
"""Settings that decide nothing about the result."""
NAMED = ("data.source.name", "data.source.paths", "data.source.stories", "training.length.")
CADENCE = ("validation.", "checkpoint.", "samples.", "tracking.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """Result of a reproduction. ``score`` is on the whole validation split, by the rule that it names."""

    preset: str
    published: str
    run: str
    score: Mapping[str, float | int | str]
    changes: Mapping[str, tuple[str, str]]
    """Setting → its value in the preset and in this run, as JSON."""
    seed: int
    steps: int
    tokens: int
    seconds: float
    """Time of training, without preparing the text."""
    flops: float
    hardware: Mapping[str, Any]
    """The environment in the manifest of the run: versions, device, processor."""
    data_fingerprint: str
    weights_sha256: str
    """Of model.safetensors in the last checkpoint."""
    config: Mapping[str, Any]

    @property
    def main_changes(self) -> dict[str, tuple[str, str]]:
        """The changes that decide what is learned: of the text the names, no cadence, no setting that only one has."""
        return {
            key: values
            for key, values in self.changes.items()
            if key.startswith(NAMED) or not (key.startswith(CADENCE) or "-" in values)
        }

    def as_json(self) -> dict[str, Any]:
        """Return the values of the receipt."""
        return {"format": FORMAT, **asdict(self)}


def published_presets() -> list[str]:
    """Return the presets that have a published result."""
    return [name for name in preset_names() if preset(name).about.published]


def require_published(name: str) -> None:
    """Raise UsageError for a preset without a published result, and for any other name."""
    if name not in published_presets():
        raise UsageError(
            f"'{name}' is not a preset with a published result.", hint=f"Use one of {', '.join(published_presets())}."
        )


def steps_in(minutes: float, name: str, overrides: tuple[str, ...], *, device: str = "auto") -> int:
    """Return how many steps of a preset with changed settings this machine runs in ``minutes``; at least one.

    Measured on random tokens of the whole length. Raises UsageError for a time that is not positive.
    """
    if not 0 < minutes < float("inf"):
        raise UsageError(f"Cannot train for --minutes {minutes:g}.", hint="Use more than 0.")
    run = load_config(name, overrides)
    engine = engines.create_engine(run, device=device)
    fastest = float("inf")
    limit = 60 * minutes / 10
    begun = time.perf_counter()
    for _ in range(TIMED_STEPS):
        fastest = min(fastest, seconds_of_step(engine, run))
        if time.perf_counter() - begun > limit:
            break
    return max(int(60 * minutes * TRAINING_SHARE / fastest), 1)


def reproduction(name: str, result: TrainResult) -> Reproduction:
    """Return what a training of the preset ``name`` gave. Raises StorageError for a damaged run directory."""
    run_dir = RunDir.open(result.path)
    run, published = run_dir.run, preset(name)
    rows = [row for row in read_rows(result.path / "metrics.jsonl") if row["kind"] == "train"]
    checkpoint = run_dir.checkpoints / step_name(result.progress.step)
    weights = manifest_entries(checkpoint, read_manifest(checkpoint))[MODEL]["sha256"]
    manifest = run_dir.manifest
    return Reproduction(
        preset=name,
        published=published.about.published,
        run=str(result.path),
        score={**asdict(result.score), "perplexity": result.score.perplexity},
        changes=changes(published, run),
        seed=run.seed,
        steps=result.progress.step,
        tokens=result.progress.tokens,
        seconds=float(rows[-1]["seconds"]) if rows else 0.0,
        flops=float(flops_per_token(run.model, run.data.sequences.length)) * result.progress.tokens,
        hardware=manifest["environment"],
        data_fingerprint=manifest["data"]["fingerprint"],
        weights_sha256=weights,
        config=run.model_dump(mode="json"),
    )


def changes(published: RunConfig, run: RunConfig) -> dict[str, tuple[str, str]]:
    """Return the settings of a run that differ from those of a preset; a dash where one has no such setting."""
    before, after = settings(published), settings(run)
    return {
        key: (before.get(key, "-"), after.get(key, "-"))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not key.startswith(NOT_A_CHANGE)
    }


def shorter(overrides: tuple[str, ...], steps: int) -> tuple[str, ...]:
    """Return settings with a length of ``steps`` and with validation, checkpoints and samples that suit it."""
    quarter, half = -(-steps // 4), -(-steps // 2)
    return (
        f"training.length={{max_steps: {steps}}}",
        f"validation.every_steps={quarter}",
        f"checkpoint.every_steps={half}",
        f"samples.every_steps={half}",
        *overrides,
    )
