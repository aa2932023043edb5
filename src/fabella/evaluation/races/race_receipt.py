"""Receipt of an entry of a race."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import data_mode
from fabella.evaluation.races.clock import RaceClock
from fabella.evaluation.races.entry_rules import held_out_source, text_id
from fabella.evaluation.races.race import Race
from fabella.evaluation.receipt import CADENCE, Receipt, describe_training, score_values
from fabella.models.parameters import count
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Weights
from fabella.runs.run_dir import RunDir
from fabella.training.session import TrainResult

RECEIPT = "race.json"
OF_EVERY_ENTRY = (
    "seed",
    "name",
    "about.",
    "training.length",
    "training.compile",
    "data.source",
    "data.validation",
    *CADENCE,
)
"""Settings that no recipe decides: the seed, the length that fits into the clock, the text, and the cadence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceReceipt(Receipt):
    """Receipt of an entry: the score of the last step, what it took, and whether the clock was kept."""

    race: str
    recipe: str
    minutes: float
    """Minutes on the clock"""
    clock: Mapping[str, float]
    """Part → its seconds: prepare, measure, train; preparing includes the tokenizer, training includes compiling"""
    clock_seconds: float
    in_time: bool
    measured_step_seconds: float
    """Time of a step from which their number was planned; 0 if the number was given"""
    tuned_on: str
    scored_weights: str
    """Weights that were scored: trained, or average if the recipe averages them (``optimizer.average``)"""
    parameters: int
    epochs: float
    held_out_bytes: int
    texts: Mapping[str, str]
    """sha256 of the contents of the files of the training text and of the held-out text"""
    artifact: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """File that was scored: its name, bytes, allowed bytes and sha256; empty if it was the last checkpoint"""

    @property
    def recipe_changes(self) -> dict[str, tuple[str, str]]:
        """Settings that differ from the recipe by choice of the entry: setting → its value there and here."""
        return chosen_changes(self.changes)


def chosen_changes(changes: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the changes of a receipt without those that every entry has."""
    return {key: values for key, values in changes.items() if not key.startswith(OF_EVERY_ENTRY)}


def problem_of(receipt: Mapping[str, Any]) -> str:
    """Return why the entry of a receipt is not valid: its clock or its artifact; empty for a valid one."""
    artifact = receipt["artifact"]
    if not receipt["in_time"]:
        return "over the clock"
    return "artifact too large" if artifact and artifact["bytes"] > artifact["max_bytes"] else ""


def scored_weights(result: TrainResult) -> Weights:
    """Return which weights of the last checkpoint are scored. The recipe decides it, and never a score."""
    return "average" if result.average_score else "trained"


def race_receipt(
    race: Race, recipe: RunConfig, result: TrainResult, dataset: TokenizedDataset, clock: RaceClock, **values: Any
) -> RaceReceipt:
    """Return the receipt of a finished training. ``values``: further fields; they win."""
    run = RunDir.open(result.path).run
    sequences = data_mode(run.data.mode.kind).count_sequences(run.data, dataset)
    fields: dict[str, Any] = {
        **describe_training(recipe, result),
        "score": score_values(result.average_score or result.score),
        "scored_weights": scored_weights(result),
        "race": race.name,
        "recipe": recipe.name,
        "minutes": race.minutes,
        "clock": clock.parts,
        "clock_seconds": clock.seconds,
        "in_time": clock.in_time,
        "parameters": count(run.model.parameters()),
        "epochs": result.progress.sequences / sequences if sequences else 0.0,
        "held_out_bytes": dataset.validation.learned_bytes,
        "texts": {"training": text_id(run.data.source), "held_out": text_id(held_out_source(run.data))},
    }
    return RaceReceipt(**{**fields, **values})
