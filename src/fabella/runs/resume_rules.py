"""What may differ between a run as it was saved and as it is asked to go on: refused, warned of, or allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fabella.errors import ConfigError
from fabella.run_config.run import RunConfig

Verdict = Literal["refuse", "warn", "allow"]

# The longest prefix of a setting's key decides. Refused: what makes the saved weights, or the saved position in
# the data, mean something else. Warned of: what goes on soundly, but not as one undisturbed run would have.
CONFIG_RULES: dict[str, Verdict] = {
    "name": "allow",
    "about": "allow",
    "seed": "refuse",  # the order of the training windows follows from it
    "engine": "warn",  # the same network, not the same bits
    "model": "refuse",
    "model.dropout": "warn",
    "tokenizer": "refuse",
    "data": "refuse",
    "data.source.paths": "allow",  # text may be moved; its fingerprint says whether it is the same
    "data.mode.prefetch_batches": "allow",
    "data.mode.timeout_seconds": "allow",
    "optimizer": "warn",
    "training.length": "warn",  # a schedule in shares of the run stretches with it
    "training.micro_batch_size": "warn",
    "training.gradient_accumulation": "warn",
    "training.precision": "warn",
    "training.gradient_checkpointing": "allow",  # the same numbers, computed once or twice
    "training.compile": "warn",  # the same sums, not rounded alike
    "training.log_every_steps": "allow",
    "training.on_nonfinite": "warn",
    "training.parallel": "warn",  # the same sums, rounded in another order
    "training.parallel.timeout_seconds": "allow",
    "validation.every_steps": "allow",
    "validation.early_stopping_patience": "allow",
    "validation.num_sequences": "warn",  # the best loss so far was measured on other windows
    "checkpoint": "allow",
    "samples": "allow",
    "tracking": "allow",
}
MANIFEST_RULES: dict[str, Verdict] = {
    "format": "allow",
    "data": "refuse",
    "data.folder": "allow",  # data may be moved; its fingerprint says whether it is the same
    "tokenizer": "refuse",
    "environment": "warn",
    "environment.memory_bytes": "allow",
}
TOLD = 5
"""Refusals told in an error: enough to see the pattern."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One setting that is not as it was. ``saved`` or ``asked`` is None where that side has no such setting."""

    key: str
    saved: Any
    asked: Any
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.saved)} → {_shown(self.asked)}"


def compare_for_resume(saved: RunConfig, asked: RunConfig) -> list[ConfigChange]:
    """All differences that are warned of or allowed. Raises ConfigError for those that are refused."""
    return _judged(saved.model_dump(mode="json"), asked.model_dump(mode="json"), CONFIG_RULES)


def compare_manifests(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[ConfigChange]:
    """The same for what a run was made with: fingerprints of data and tokenizer, versions, hardware."""
    given = {key: value for key, value in saved.items() if key in asked}
    return _judged(given, asked, MANIFEST_RULES)


def rule_for(key: str, rules: Mapping[str, Verdict]) -> Verdict:
    """The verdict of the longest prefix of ``key``; refused where nobody has thought of it."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in rules:
            return rules[prefix]
    return "refuse"


def _judged(saved: Any, asked: Any, rules: Mapping[str, Verdict]) -> list[ConfigChange]:
    before, after = _flat(saved), _flat(asked)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    found = [ConfigChange(key, before.get(key), after.get(key), rule_for(key, rules)) for key in changed]
    refused = [str(difference) for difference in found if difference.verdict == "refuse"]
    if refused:
        more = f"; and {len(refused) - TOLD:,} more" if len(refused) > TOLD else ""
        raise ConfigError(
            f"A run cannot go on with other values of {'; '.join(refused[:TOLD])}{more}.",
            hint="Resume without them, or begin a new run with another --out.",
        )
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; lists are values."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    inner = [_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: leaf for part in inner for key, leaf in part.items()}


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
