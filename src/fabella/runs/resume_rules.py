"""Rules for changed settings on resume (refuse, warn or allow), and the record of the changes in the manifest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fabella.errors import ConfigError
from fabella.optim.registry import has_same_state
from fabella.run_config.run import RunConfig

Verdict = Literal["refuse", "warn", "allow"]

# The longest prefix of a key decides. Refused: settings that change the meaning of the saved weights, of the optimizer
# state or of the saved position in the data. Warned of: settings with which training continues correctly, but not like
# an uninterrupted run; the manifest records them. Allowed: the saved config trains the same weights from the start.
CONFIG_RULES: dict[str, Verdict] = {
    "name": "allow",
    "about": "allow",
    "seed": "refuse",  # decides the order of training sequences
    "engine": "warn",  # the same network, with other rounding
    "model": "refuse",
    "model.dropout": "warn",
    "tokenizer": "refuse",
    "tokenizer.source": "allow",  # a tokenizer may be moved; ``require_same_data`` compares it
    "data": "refuse",
    "data.source.paths": "allow",  # files may be moved; ``require_same_data`` compares the text
    "data.validation.source.paths": "allow",
    "data.mode.prefetch_batches": "allow",
    "data.mode.timeout_seconds": "allow",
    "optimizer": "warn",  # an average of the weights begins again with another kind or start
    "training.length": "warn",  # a schedule in shares of the run changes with it
    "training.micro_batch_size": "warn",
    "training.gradient_accumulation": "warn",
    "training.precision": "warn",
    "training.gradient_checkpointing": "allow",  # the same numbers, computed twice
    "training.compile": "warn",  # the same sums with other rounding
    "training.freeze": "refuse",  # the saved optimizer state has only the parameters that were trained
    "training.deterministic": "warn",  # the same sums in another order
    "training.log_every_steps": "allow",
    "training.on_nonfinite": "warn",
    "training.on_divergence": "warn",  # a rollback changes what is learned
    "training.parallel": "warn",  # the same sums, added in another order
    "training.parallel.timeout_seconds": "allow",
    "validation.every_steps": "allow",
    "validation.every_epochs": "allow",
    "validation.batch_size": "allow",  # the same losses, summed over other batches
    "validation.early_stopping_patience": "warn",  # decides where the training ends
    "validation.also": "allow",  # further losses, which decide nothing
    "validation.num_sequences": "warn",  # the best loss was measured on other sequences
    "checkpoint": "allow",
    "samples": "allow",
    "tracking": "allow",
}
MANIFEST_RULES: dict[str, Verdict] = {
    "format": "allow",
    "data": "refuse",
    "data.folder": "allow",  # a dataset may be moved; the fingerprint identifies it
    "tokenizer": "refuse",
    "environment": "warn",
    "environment.memory_bytes": "allow",
    "environment.matmul_speedup": "allow",  # measured again on each machine
    "environment.kernels_warning": "allow",  # a message; "environment.kernels" is what counts
}
PART_OF_MIXTURE = re.compile(r"(?<=\.)parts\.\d+\.source\.")
UNCHANGED = "Resume without these changes, or start a new run with another --out."
MAX_NAMED = 5
"""Refused changes named in an error: enough to see the pattern."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One changed setting. ``saved`` or ``requested`` is None if that config has no such setting."""

    key: str
    saved: Any
    requested: Any
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.key}: {_shorten(self.saved)} → {_shorten(self.requested)}"


def compare_for_resume(saved: RunConfig, requested: RunConfig) -> list[ConfigChange]:
    """Return all changes that are warned of or allowed. Raises ConfigError if one is refused.

    Another kind of optimizer needs a reset of the optimizer state, unless both have the same.
    """
    changes = _apply_rules(saved.model_dump(mode="json"), requested.model_dump(mode="json"), CONFIG_RULES)
    reset = set(requested.optimizer.reset_after) > set(saved.optimizer.reset_after)
    if not reset and not has_same_state(saved.optimizer.kind, requested.optimizer.kind):
        raise ConfigError(
            f"Cannot resume with optimizer.kind = {requested.optimizer.kind}: the saved optimizer state is that of "
            f"{saved.optimizer.kind}, which {requested.optimizer.kind} would misread.",
            hint=f"Start with a fresh optimizer: --reset-optimizer. {UNCHANGED}",
        )
    return changes


def compare_manifests(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> list[ConfigChange]:
    """Return the same for manifests: fingerprints of data and tokenizer, versions, hardware."""
    common = {key: value for key, value in saved.items() if key in requested}
    return _apply_rules(common, requested, MANIFEST_RULES)


def rule_for(key: str, rules: Mapping[str, Verdict]) -> Verdict:
    """Return the verdict of the longest prefix of ``key``; refuse a key without a rule.

    A part of a mixture has the rules of a source: ``data.source.parts.0.source.paths`` those of ``data.source.paths``.
    """
    parts = PART_OF_MIXTURE.sub("", key).split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in rules:
            return rules[prefix]
    return "refuse"


def record_changes(
    changes: Sequence[Mapping[str, Any]], saved: RunConfig, requested: RunConfig, step: int
) -> list[dict[str, Any]]:
    """Return the manifest's entry ``changes`` of a run that resumes after ``step`` with the config ``requested``.

    Each entry has the ``step`` after which settings changed and ``settings``: key → [value before, value after], null
    for a setting that the other config does not have. Only settings that are warned of are recorded: with all others,
    the saved config trains the same weights. Changes after which no step was saved are merged with the new ones.
    """
    before, after = flatten_settings(saved.model_dump(mode="json")), flatten_settings(requested.model_dump(mode="json"))
    kept = [dict(entry) for entry in changes if entry["step"] < step]
    for entry in reversed(changes[len(kept) :]):
        before |= {key: values[0] for key, values in entry["settings"].items()}
    changed = {
        key: [before.get(key), after.get(key)]
        for key in {**before, **after}
        if before.get(key) != after.get(key) and rule_for(key, CONFIG_RULES) == "warn"
    }
    return [*kept, {"step": step, "settings": changed}] if changed and step else kept


def describe_changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per recorded change: ``after step 30: optimizer.lr: 0.001 → 0.0005``."""
    return [
        f"after step {entry['step']:,}: {ConfigChange(key, before, after, 'warn')}"
        for entry in changes
        for key, (before, after) in entry["settings"].items()
    ]


def _apply_rules(saved: Any, requested: Any, rules: Mapping[str, Verdict]) -> list[ConfigChange]:
    before, after = flatten_settings(saved), flatten_settings(requested)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    changes = [ConfigChange(key, before.get(key), after.get(key), rule_for(key, rules)) for key in keys]
    refused = [str(change) for change in changes if change.verdict == "refuse"]
    if refused:
        more = f"; and {len(refused) - MAX_NAMED:,} more" if len(refused) > MAX_NAMED else ""
        raise ConfigError(f"Cannot resume with other values of {'; '.join(refused[:MAX_NAMED])}{more}.", hint=UNCHANGED)
    return changes


def flatten_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested sections as dotted keys; lists are values, except the parts of a mixture."""
    if prefix.endswith(".parts"):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {prefix: value}
    inner = [flatten_settings(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: leaf for part in inner for key, leaf in part.items()}


def _shorten(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
