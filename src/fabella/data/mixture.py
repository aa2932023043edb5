"""Mixture of the parts of a dataset: which part, and which of its sequences, comes at each position of a run.

    positions are cut into blocks ─▶ each part has its share of a block, rounded ─▶ the block is permuted
    sequence r of a part = permutation(seed, part, epoch r // n) of (r mod n)

Everything is a function of (seed, position, weights): a run resumes from its position. Each part has epochs of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import PHASE_END, MixtureSource
from fabella.data.permutation import permute
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import PartSize, TrainingSequences
from fabella.splitmix64 import splitmix64
from fabella.text.mixture import flatten_mixture

BLOCK = 256
"""Sequences in which the shares are exact, but for rounding: few optimizer steps of a small model."""


@dataclass(frozen=True, slots=True)
class WeightPhase:
    """Shares of the parts, which sum to 1, up to sequence ``end`` of the run; None for the last phase."""

    end: int | None
    shares: tuple[float, ...]


def weight_phases(source: MixtureSource) -> list[WeightPhase]:
    """Return the phases of a mixture, of which the ends are resolved to sequences, with shares of all nested parts."""
    phases: list[WeightPhase] = []
    for phase in source.schedule:
        amount = PHASE_END.fullmatch(str(phase.until))
        assert amount, f"{phase.until} is a valid end"
        assert (amount[3], amount[4]) == ("", "sequences"), f"{phase.until} is resolved to sequences"
        weights = zip(source.parts, phase.weights, strict=True)
        parts = tuple(part.model_copy(update={"weight": weight}) for part, weight in weights)
        phases.append(WeightPhase(int(amount[1]), part_shares(source.model_copy(update={"parts": parts}))))
    return [*phases, WeightPhase(None, part_shares(source))]


def part_shares(source: MixtureSource) -> tuple[float, ...]:
    """Return the shares of all nested parts by their own weights, which hold after the last phase."""
    weights = [weight for weight, _ in flatten_mixture(source)]
    return tuple(weight / sum(weights) for weight in weights)


def draws_of(
    part_shares: Sequence[float], by: Literal["tokens", "documents"], sizes: Sequence[PartSize]
) -> NDArray[np.float64]:
    """Return the share of the sequences that each part has, so that its share of tokens or documents is right."""
    shares = np.array(part_shares)
    if by == "documents":
        shares = shares * [size.tokens / size.documents for size in sizes]
    draws = shares / [size.tokens_per_sequence for size in sizes]
    return draws / draws.sum()


def mixture_sampler(
    source: MixtureSource, samples: TrainingSequences, seed: int, epoch_offset: int = 0
) -> "MixtureSampler":
    """Return the order of the sequences of ``samples``, which has the parts of ``source``."""
    phases = [(phase.end, draws_of(phase.shares, source.by, samples.parts)) for phase in weight_phases(source)]
    return MixtureSampler([size.sequences for size in samples.parts], phases, seed, epoch_offset)


class MixtureSampler:
    """Order of the sequences of all parts under ``seed``; those of a part are numbered after those of earlier parts."""

    def __init__(
        self,
        counts: Sequence[int],
        phases: Sequence[tuple[int | None, NDArray[np.float64]]],
        seed: int,
        epoch_offset: int = 0,
    ) -> None:
        """``counts``: sequences of each part. ``phases``: (first position after it, share of each part).

        ``epoch_offset`` is added to the numbers of a part once per epoch of that part.
        """
        self._firsts = np.cumsum([0, *counts])[:-1]
        self._orders = [
            PermutationSampler(count, splitmix64(splitmix64(seed) + splitmix64(part)), epoch_offset)
            for part, count in enumerate(counts, start=1)
        ]
        self._key = splitmix64(splitmix64(seed) + splitmix64(0))
        ends = [end for end, _ in phases if end is not None]
        self._starts = [0, *ends]
        self._sizes = [end - start for start, end in zip(self._starts, ends, strict=False)]
        self._borders = np.stack([np.concatenate([[0.0], np.cumsum(draws)[:-1], [1.0]]) for _, draws in phases])
        blocks = [-(-size // BLOCK) for size in self._sizes]
        self._first_blocks = np.cumsum([0, *blocks])
        self._used = np.zeros((1, len(counts)), np.int64)

    def sequences(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sequences at positions ``start`` to ``stop - 1``."""
        found: list[NDArray[np.int64]] = []
        while start < stop:
            block, begin, size = self._block_of(start)
            last = min(stop, begin + size)
            found.append(self._in_block(block, size, start - begin, last - begin))
            start = last
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def used(self, stop: int) -> NDArray[np.int64]:
        """Return how many of the sequences before position ``stop`` are of each part, [parts]."""
        if not stop:
            return np.zeros(len(self._orders), np.int64)
        block, begin, size = self._block_of(stop - 1)
        parts = self._parts_of(block, size)[: stop - begin]
        return self._used_before(block) + np.bincount(parts, minlength=len(self._orders))

    def _block_of(self, position: int) -> tuple[int, int, int]:
        """Return number, first position and size of the block of a position. A phase ends with a smaller block."""
        phase = int(np.searchsorted(self._starts, position, side="right")) - 1
        inside = (position - self._starts[phase]) // BLOCK
        begin = self._starts[phase] + inside * BLOCK
        end = self._starts[phase + 1] if phase + 1 < len(self._starts) else begin + BLOCK
        return int(self._first_blocks[phase]) + inside, begin, min(BLOCK, end - begin)

    def _in_block(self, block: int, size: int, first: int, last: int) -> NDArray[np.int64]:
        """Return the sequences at positions ``first`` to ``last - 1`` of a block."""
        parts = self._parts_of(block, size)
        found = np.empty(last - first, np.int64)
        for part in np.unique(parts[first:last]).tolist():
            here = np.flatnonzero(parts[first:last] == part)
            used = int(self._used_before(block)[part]) + int((parts[:first] == part).sum())
            found[here] = self._firsts[part] + self._orders[part].sequences(used, used + len(here))
        return found

    def _parts_of(self, block: int, size: int) -> NDArray[np.int64]:
        """Return the part of each position of a block, [size]."""
        counts = self._counts(np.array([block]), np.array([size]))[0]
        slots = permute(np.arange(size), size, splitmix64(self._key + splitmix64(~block)))
        return np.repeat(np.arange(len(counts)), counts)[slots]

    def _counts(self, blocks: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of sequences of each part in each block, [blocks, parts]; a row sums to its size.

        Systematic sampling: the borders between the parts, shifted by a random number per block, are rounded down.
        """
        phases = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        key = np.uint64(splitmix64(self._key))
        shifts = splitmix64(blocks.astype(np.uint64) + key).astype(np.float64) / 2.0**64
        shifts = np.minimum(shifts, 1.0 - 2.0**-53)
        borders = np.floor(self._borders[phases] * sizes[:, None] + shifts[:, None])
        return np.diff(borders, axis=1).astype(np.int64)

    def _used_before(self, block: int) -> NDArray[np.int64]:
        """Return how many sequences of each part come before a block; the table of these sums grows as needed."""
        known = len(self._used)
        if block >= known:
            more = np.arange(known - 1, max(block, 2 * known))
            phases = np.searchsorted(self._first_blocks, more, side="right") - 1
            inside = more - self._first_blocks[phases]
            lengths = np.array([*self._sizes, np.iinfo(np.int64).max])
            sizes = np.minimum(BLOCK, lengths[phases] - inside * BLOCK)
            added = np.cumsum(self._counts(more, sizes), axis=0) + self._used[-1]
            self._used = np.concatenate([self._used, added])
        return self._used[block]
