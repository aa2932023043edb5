"""How likely a model finds texts that go on from other texts: what questions with given answers are scored by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError
from fabella.evaluation.predictions import Predict
from fabella.generation.likelihood import window_starts
from fabella.models import IGNORE
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one continuation."""

    nats: float
    """Natural logarithm of its probability, 0 at most; of nothing, 0"""
    greedy: bool
    """Whether each of its tokens was the likeliest one"""


@dataclass(frozen=True, slots=True)
class _Window:
    """Tokens of a line that are read at once, and those predicted from them: IGNORE where an earlier one did, [T]."""

    line: int
    read: NDArray[np.int32]
    wanted: NDArray[np.int32]


def loglikelihoods(
    predict: Predict, tokenizer: Tokenizer, asked: Sequence[tuple[str, str]], *, context: int, tokens: int
) -> list[Likelihood]:
    """Of each (text before, continuation): how likely the second is after the first.

    Both are tokenized as one text; scored is what follows the tokens that the text before has on its own. It is read
    after the end-of-document id, as in training; the end of a continuation is not scored. Of a longer text the last
    ``context`` tokens are read, and a continuation that does not fit is read in windows that overlap by half. At most
    ``tokens`` are read at once, or one window. Raises NumericsError where a prediction is not finite.
    """
    windows = [window for number, pair in enumerate(asked) for window in _windows(number, pair, tokenizer, context)]
    windows.sort(key=lambda window: len(window.read))
    nats, greedy = np.zeros(len(asked)), np.ones(len(asked), np.bool_)
    for group in _together(windows, tokens):
        found = predict(*_padded(group, tokenizer.eos_id))
        for row, window in enumerate(group):
            new = np.flatnonzero(window.wanted != IGNORE)
            nats[window.line] -= float(found.nats[row, new].sum(dtype=np.float64))
            greedy[window.line] &= bool(found.correct[row, new].all())
    wrong = np.flatnonzero(~np.isfinite(nats))
    if wrong.size:
        raise NumericsError(
            f"A continuation ({asked[int(wrong[0])][1]!r:.60}) has the log-likelihood {nats[wrong[0]]}.",
            hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
        )
    return [Likelihood(float(one) + 0.0, bool(right)) for one, right in zip(nats, greedy, strict=True)]


def _windows(number: int, pair: tuple[str, str], tokenizer: Tokenizer, context: int) -> Iterator[_Window]:
    before, line = tokenizer.encode(pair[0]), tokenizer.encode("".join(pair)).astype(np.int32)
    first = common_prefix(before, line)
    if first == len(line):  # nothing follows
        return
    fits = len(line) - first <= context
    starts = [max(0, len(line) - context)] if fits else window_starts(len(line), context).tolist()
    read = np.append(tokenizer.eos_id, line[:-1]).astype(np.int32)
    for start in starts:
        stop = min(start + context, len(line))
        if stop > first:
            wanted = np.where(np.arange(start, stop) < first, IGNORE, line[start:stop]).astype(np.int32)
            yield _Window(number, read[start:stop], wanted)
            first = stop


def common_prefix(before: NDArray[np.int32], line: NDArray[np.int32]) -> int:
    """How many ids both begin with: a tokenizer may join the last letters of one text to the first of the next."""
    shorter = min(len(before), len(line))
    differing = np.flatnonzero(before[:shorter] != line[:shorter])
    return int(differing[0]) if differing.size else shorter


def _together(windows: Sequence[_Window], tokens: int) -> Iterator[list[_Window]]:
    group: list[_Window] = []
    for window in windows:
        if group and (len(group) + 1) * len(window.read) > tokens:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _padded(group: Sequence[_Window], end: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens and targets, [B T]."""
    width = len(group[-1].read)
    tokens = np.full((len(group), width), end, np.int32)
    targets = np.full((len(group), width), IGNORE, np.int32)
    for row, window in enumerate(group):
        tokens[row, : len(window.read)], targets[row, : len(window.wanted)] = window.read, window.wanted
    return tokens, targets
