"""Receipt of a training: what was trained, with which changes, on what hardware, and the score that came out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fabella.models.flops import flops_per_token
from fabella.report.run_history import settings
from fabella.run_config.run import RunConfig
from fabella.runs.branch import model_sha256
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir
from fabella.training.eval_loss import EvalLoss
from fabella.training.session import TrainResult

NOT_A_CHANGE = ("name", "about.")
"""Settings that decide nothing about the result."""
NAMED = ("data.source.name", "data.source.paths", "data.source.stories", "training.length.")
CADENCE = ("validation.", "checkpoint.", "samples.", "tracking.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What every receipt states. ``score`` is on the whole held-out text, by the rule that it names."""

    FORMAT: ClassVar[int] = 1
    run: str
    score: Mapping[str, float | int | str]
    changes: Mapping[str, tuple[str, str]]
    """Setting → its value in the recipe and in this run, as JSON."""
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

    @property
    def machine(self) -> str:
        """Processor, device and precision, for people."""
        return ", ".join(
            str(self.hardware[key]) for key in ("processor", "device", "precision") if key in self.hardware
        )

    def as_json(self) -> dict[str, Any]:
        """Return the values of the receipt."""
        return {"format": self.FORMAT, **asdict(self)}


def describe_training(recipe: RunConfig, result: TrainResult) -> dict[str, Any]:
    """Return the values of a ``Receipt`` for a finished training. Raises StorageError for a damaged run directory."""
    run_dir = RunDir.open(result.path)
    run, manifest = run_dir.run, run_dir.manifest
    rows = [row for row in read_rows(result.path / "metrics.jsonl") if row["kind"] == "train"]
    return {
        "run": str(result.path),
        "score": score_values(result.score),
        "changes": changes(recipe, run),
        "seed": run.seed,
        "steps": result.progress.step,
        "tokens": result.progress.tokens,
        "seconds": float(rows[-1]["seconds"]) if rows else 0.0,
        "flops": float(flops_per_token(run.model, run.data.sequences.length)) * result.progress.tokens,
        "hardware": manifest["environment"],
        "data_fingerprint": manifest["data"]["fingerprint"],
        "weights_sha256": model_sha256(run_dir, result.progress.step),
        "config": run.model_dump(mode="json"),
    }


def score_values(score: EvalLoss) -> dict[str, float | int | str]:
    """Return the values of a score in a receipt."""
    return {**asdict(score), "perplexity": score.perplexity}


def changes(recipe: RunConfig, run: RunConfig) -> dict[str, tuple[str, str]]:
    """Return the settings of a run that differ from those of a recipe; a dash where one has no such setting."""
    before, after = settings(recipe), settings(run)
    return {
        key: (before.get(key, "-"), after.get(key, "-"))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not key.startswith(NOT_A_CHANGE)
    }
