"""Rule by which text is scored. Bits per byte depend on it, so every score is shown with the name of its rule.

    line-256          the documents one after the other, cut into sequences of 256 tokens
    line-256-masked   the same, each token predicted from its own document only
    story-256         each document from its first token, with a context of at most 256 tokens
    cut-256           each document from its first token, and only its first 256 tokens

Scores by different rules are not comparable: on TinyStories, sequences of 256 tokens cost 5 % more bits per byte than
whole stories.
"""

from dataclasses import dataclass
from typing import Literal

from fabella.config.data import Packed, Padded

RuleKind = Literal["line", "story", "cut"]


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """What a token is predicted from, and which tokens are scored. EOS tokens are scored by every rule.

    ``line``: packed sequences of ``length`` tokens, ``stride`` apart, each scored from its own start; a rest shorter
    than a sequence is not scored. ``story``: each document after the id that precedes documents; one longer than
    ``length`` is read in windows ``stride`` apart, and only tokens that no earlier window has are scored. ``cut``: the
    same, without the tokens after the first ``length``. ``masked``: sequences of ``line`` whose tokens are predicted
    from their own document only.
    """

    kind: RuleKind
    length: int
    stride: int
    masked: bool = False

    @property
    def name(self) -> str:
        """``line-256``; if sequences of ``line`` overlap, with the stride: ``line-256-by-128``; ``line-256-masked``."""
        overlaps = self.kind == "line" and self.stride != self.length
        stride, masked = (f"-by-{self.stride}" if overlaps else ""), ("-masked" if self.masked else "")
        return f"{self.kind}-{self.length}{stride}{masked}"

    def __str__(self) -> str:
        return self.name

    def describe(self) -> str:
        """Return the rule as a clause."""
        if self.kind == "line":
            overlap = f", {self.stride:,} tokens apart" if self.stride != self.length else ""
            masked = ", documents masked" if self.masked else ""
            return f"sequences of {self.length:,} tokens{overlap}, each from its own start{masked}"
        if self.kind == "cut":
            return f"the first {self.length:,} tokens of each document"
        return f"each document from its first token, context of at most {self.length:,} tokens"


def line(length: int) -> ScoringRule:
    """Return the rule of packed sequences in which every target is scored once."""
    return ScoringRule("line", length, length)


def story(length: int) -> ScoringRule:
    """Return the rule of whole documents; the windows of long ones overlap by half of ``length``."""
    return ScoringRule("story", length, max(1, length - length // 2))


def validation_rule(sequences: Packed | Padded) -> ScoringRule:
    """Return the rule of the validations and of the final score of a training with these sequences."""
    if isinstance(sequences, Packed):
        return ScoringRule("line", sequences.length, sequences.stride, sequences.mask_documents)
    return ScoringRule("cut", sequences.length, sequences.length)
