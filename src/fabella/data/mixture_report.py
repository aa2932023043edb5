"""Sentences about a mixture: the share of the tokens that each part has, and how often it is repeated."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from fabella.config.data import MixtureSource, Source
from fabella.data.mixture import draws_of, part_shares, weight_phases
from fabella.data.sequences import PartSize
from fabella.storage import format_share, number_of

REPEATS_THAT_HELP = 4
"""Epochs up to which repeated text is nearly as good as new text (Muennighoff et al. 2023, arXiv 2305.16264)."""
MIN_USED = 0.1
"""Share of a part, 0 to 1, below which most of it is left out."""


class PartText(Protocol):
    """Text of one part of a mixture; ``tokens`` may be its bytes, which have the same proportions."""

    @property
    def source(self) -> str:
        """Description of its source."""
        ...

    @property
    def documents(self) -> int:
        """Its documents."""
        ...

    @property
    def tokens(self) -> int:
        """Its tokens, or another measure of its text."""
        ...


@dataclass(slots=True)
class PartRead:
    """What was read of one part, before a tokenizer is known."""

    source: str
    documents: int = 0
    bytes: int = 0

    @property
    def tokens(self) -> int:
        """Its bytes, which have the same proportions as tokens."""
        return self.bytes


@dataclass(frozen=True, slots=True)
class PartUse:
    """Use of one part of a mixture in training, or in an epoch."""

    source: str
    text_share: float
    """Share of the tokens of all parts that it has, 0 to 1."""
    share: float
    """Share of the tokens trained on, 0 to 1."""
    epochs: float
    """How often the whole part is read."""

    def as_json(self) -> dict[str, Any]:
        """Return the values by their names."""
        return asdict(self)


def epoch_use(source: Source, parts: Sequence[PartText]) -> list[PartUse]:
    """Return the use of each part in one epoch of a mixture, with the weights of its parts; none for one source."""
    if not isinstance(source, MixtureSource) or not parts:
        return []
    tokens = np.array([max(part.tokens, 1) for part in parts], np.float64)
    shares = np.array(part_shares(source))
    if source.by == "documents":
        shares = shares * tokens / [max(part.documents, 1) for part in parts]
        shares = shares / shares.sum()
    epoch = (tokens / shares).min() if source.until == "first" else (tokens / shares).max()
    return [
        PartUse(part.source, count / tokens.sum(), share, epoch * share / count)
        for part, count, share in zip(parts, tokens.tolist(), shares.tolist(), strict=True)
    ]


def training_use(source: MixtureSource, names: Sequence[str], sizes: Sequence[PartSize], total: int) -> list[PartUse]:
    """Return the use of each part in a training of ``total`` sequences; the schedule is resolved."""
    used, start = np.zeros(len(sizes)), 0
    for phase in weight_phases(source):
        stop = total if phase.end is None else min(phase.end, total)
        used += max(stop - start, 0) * draws_of(phase.shares, source.by, sizes)
        start = max(start, stop)
    tokens = used * [size.tokens_per_sequence for size in sizes]
    text = sum(size.tokens for size in sizes)
    return [
        PartUse(name, size.tokens / text, share, count / size.sequences)
        for name, size, share, count in zip(names, sizes, (tokens / tokens.sum()).tolist(), used.tolist(), strict=True)
    ]


def describe_parts(source: Source, parts: Sequence[PartText], unit: str = "token") -> Iterator[str]:
    """Yield one sentence per part: how much text it has, and how much of an epoch."""
    uses = epoch_use(source, parts)
    for number, (part, use) in enumerate(zip(parts, uses, strict=bool(uses)), start=1):
        yield (
            f"part {number}, {part.source}: {number_of(part.documents, 'document')}, {number_of(part.tokens, unit)} "
            f"({format_share(use.text_share)} of the text); {format_share(use.share)} of an epoch, which reads it "
            f"{use.epochs:.2f} times"
        )


def describe_use(uses: Sequence[PartUse]) -> Iterator[str]:
    """Yield a sentence about the shares, and one for each part that is repeated often, or hardly used."""
    shares = "; ".join(f"{format_share(use.share)} {use.source} ({use.epochs:.2f} times)" for use in uses)
    yield f"tokens of the training by part of the mixture, and how often each part is read: {shares}"
    completed = any(use.epochs >= 1 for use in uses)
    for use in uses:
        if use.epochs > REPEATS_THAT_HELP:
            yield (
                f"warning: {use.source} is read {use.epochs:.1f} times; after {REPEATS_THAT_HELP} times, each repeat "
                "helps less. Lower its weight, train for fewer steps, or use more text for it."
            )
        elif completed and use.epochs < MIN_USED:
            yield (
                f"warning: {format_share(use.epochs)} of {use.source} is read. Raise its weight, or train for more "
                "steps, to use more of it."
            )
