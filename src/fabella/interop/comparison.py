"""Comparison of an export with its run: what is measured, and what must hold before an export is kept."""

from dataclasses import asdict, dataclass
from typing import Any

LOGIT_TOLERANCE = 1e-4
"""Largest difference of two logits of a float32 export. Sums in another order differ by about 1e-5."""
BITS_TOLERANCE = 0.005
"""Largest relative difference in bits per byte of an export with less precision."""
INT8_TIE = 0.02
"""Difference of two logits that int8 decoders may order differently: a sum in another order can round one activation
to its neighbor, of 127."""
PROMPTS = 20
PROMPT_TOKENS = 8
GREEDY_TOKENS = 200
PROBE_TOKENS = 64
"""Tokens per row of which all logits are compared."""


ROUNDING_REST = 0.25
"""Share of the effect of a target's rounding that may be left if Fabella's model rounds alike. Sums in another order
round a few numbers to a neighbor, so that it is not 0; 0.1 was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Differences of logits that come from what a target computes with less precision than the file has."""

    name: str
    """For example ``GELU in float16``."""
    effect: float
    """Root mean square of what this rounding changes in Fabella's model."""
    max_effect: float
    rest: float
    """Root mean square of the differences from Fabella's model with this rounding."""
    max_rest: float

    def explains(self) -> bool:
        """Return whether the rounding explains the differences: little is left with it."""
        return self.rest <= max(ROUNDING_REST * self.effect, LOGIT_TOLERANCE / 10) and self.max_rest <= max(
            self.max_effect, LOGIT_TOLERANCE
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Measured differences between a run and its export."""

    target: str
    precision: str
    decoder: str = "float32"
    """Weights of Fabella's decoder that generates the greedy text: float32, or int8 for an int8 decoder as target."""
    text: str
    """Text of the comparison: ``held-out text`` of the run, or ``generated text`` if its dataset is not there."""
    max_logit_difference: float
    rounding: "Rounding | None" = None
    """What the target computes with less precision, whatever the file holds."""
    largest_logit: float
    prompts: int
    tokens: int
    """Greedy tokens per prompt."""
    greedy_equal: int
    """Prompts with equal greedy tokens, up to the end of the document."""
    greedy_ties: int
    """Prompts among them that differ only after two tokens whose logits are equal up to the tolerance."""
    greedy_explained: int
    """Prompts that are equal, or first differ at two tokens whose logits are within ``max_logit_difference``."""
    bits_per_byte: float
    target_bits_per_byte: float
    tokenizer: str
    """``equal``, or why the tokenizer was not compared."""
    tokens_per_second: float
    """Greedy tokens of all prompts by the target, per second of its decoding."""

    @property
    def bits_difference(self) -> float:
        """Relative difference in bits per byte."""
        return abs(self.target_bits_per_byte - self.bits_per_byte) / max(self.bits_per_byte, 1e-9)

    def problems(self) -> list[str]:
        """Return what does not hold; an empty list for an export that equals its run."""
        found: list[str] = []
        explained = self.rounding is not None and self.rounding.explains()
        if self.precision == "float32" and not (self.max_logit_difference <= LOGIT_TOLERANCE or explained):
            reason = f", and {self.rounding.name} does not explain it" if self.rounding else ""
            difference = f"{self.max_logit_difference:.2g}, more than {LOGIT_TOLERANCE:g}"
            found.append(f"the logits differ by up to {difference}{reason}")
        equal = self.greedy_equal if self.decoder == "int8" else self.greedy_explained
        if (self.precision == "float32" or self.decoder == "int8") and equal < self.prompts:
            found.append(f"greedy text is equal for {equal} of {self.prompts} prompts only")
        if not self.bits_difference <= BITS_TOLERANCE:
            found.append(
                f"bits per byte differ by {self.bits_difference:.2%} ({self.bits_per_byte:.4f} and "
                f"{self.target_bits_per_byte:.4f}), more than {BITS_TOLERANCE:.1%}"
            )
        if self.tokenizer.startswith("differs"):
            found.append(f"the tokenizer {self.tokenizer}")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json`` and for ``export.json``."""
        return {**asdict(self), "bits_difference": self.bits_difference}
