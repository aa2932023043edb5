"""Choice of a scoring rule for a model."""

from collections.abc import Callable, Mapping

from fabella.config.data import Packed, Padded
from fabella.config.scoring import ScoringRule, line, story
from fabella.errors import UsageError
from fabella.models.model_config import ModelConfig

RULES: Mapping[str, Callable[[int], ScoringRule]] = {"story": story, "line": line}
"""Name → the rule of a number of tokens."""


def trained_context(config: ModelConfig, sequences: Packed | Padded) -> int:
    """Return the longest context that the training used."""
    return min(config.context_length, sequences.length)


def require_rule(name: str) -> str:
    """Return ``name`` if it is a rule. Raises UsageError otherwise."""
    if name not in RULES:
        raise UsageError(f"There is no scoring rule {name!r:.40}.", hint=f"Choose from: {', '.join(sorted(RULES))}.")
    return name


def require_length(config: ModelConfig, length: int, trained: int) -> int:
    """Return ``length``, or ``trained`` for 0. Raises UsageError for one that the model cannot have."""
    most = config.context_length
    if length < 0 or (length > most and not config.unlimited_context):
        raise UsageError(
            f"--length {length} is not a number of tokens from 1 to {most}, the context length of the model.",
            hint=f"Use --length {trained}, the length of the training sequences.",
        )
    return length or trained
