"""Log-likelihood of continuations, as multiple-choice tasks need it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError
from fabella.evaluation.scoring.batches import group_by_tokens
from fabella.evaluation.scoring.predictions import Predict
from fabella.generation.likelihood import sequence_starts
from fabella.models import IGNORE
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Score of one continuation."""

    nats: float
    """Natural logarithm of its probability, at most 0; 0 for an empty continuation."""
    greedy: bool
    """True if every token was the most likely one."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Input tokens of one forward pass and their targets, [T] each; IGNORE where an earlier window has the target."""

    sequence: int
    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]


def loglikelihoods(
    predict: Predict, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, context: int, tokens: int
) -> list[Likelihood]:
    """Return the log-likelihood of the second text of each (context, continuation) pair after the first.

    Both are tokenized as one text after the EOS id, as in training; the tokens after those of the context alone are
    scored, without a final EOS. A longer text is cut to its last ``context`` tokens; a continuation that does not fit
    is scored in windows that overlap by half. A forward pass has at most ``tokens`` tokens, or one window. Raises
    NumericsError for a prediction that is not finite.
    """
    windows = [window for number, pair in enumerate(pairs) for window in _windows(number, pair, tokenizer, context)]
    windows.sort(key=lambda window: len(window.inputs))
    nats, greedy = np.zeros(len(pairs)), np.ones(len(pairs), np.bool_)
    for group in group_by_tokens(windows, lambda window: len(window.inputs), tokens):
        predictions = predict(*_padded(group, tokenizer.eos_id))
        for row, window in enumerate(group):
            scored = np.flatnonzero(window.targets != IGNORE)
            nats[window.sequence] -= float(predictions.nats[row, scored].sum(dtype=np.float64))
            greedy[window.sequence] &= bool(predictions.correct[row, scored].all())
    wrong = np.flatnonzero(~np.isfinite(nats))
    if wrong.size:
        raise NumericsError(
            f"The continuation {pairs[int(wrong[0])][1]!r:.60} has the log-likelihood {nats[wrong[0]]}.",
            hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
        )
    return [Likelihood(float(total) + 0.0, bool(best)) for total, best in zip(nats, greedy, strict=True)]


def _windows(number: int, pair: tuple[str, str], tokenizer: Tokenizer, context: int) -> Iterator[_Window]:
    prompt, sequence = tokenizer.encode(pair[0]), tokenizer.encode("".join(pair)).astype(np.int32)
    first = common_prefix(prompt, sequence)
    if first == len(sequence):  # the continuation is empty
        return
    fits = len(sequence) - first <= context
    starts = [max(0, len(sequence) - context)] if fits else sequence_starts(len(sequence), context).tolist()
    inputs = np.append(prefix_id(tokenizer), sequence[:-1]).astype(np.int32)
    for start in starts:
        stop = min(start + context, len(sequence))
        if stop > first:
            targets = np.where(np.arange(start, stop) < first, IGNORE, sequence[start:stop]).astype(np.int32)
            yield _Window(number, inputs[start:stop], targets)
            first = stop


def common_prefix(prompt: NDArray[np.int32], sequence: NDArray[np.int32]) -> int:
    """Return the number of equal leading ids.

    It may be less than the length of the prompt, whose last letters a tokenizer may merge with the ones that follow.
    """
    shorter = min(len(prompt), len(sequence))
    differing = np.flatnonzero(prompt[:shorter] != sequence[:shorter])
    return int(differing[0]) if differing.size else shorter


def _padded(group: Sequence[_Window], eos_id: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return tokens and targets, [B T] each, padded to the last and longest window."""
    width = len(group[-1].inputs)
    tokens = np.full((len(group), width), eos_id, np.int32)
    targets = np.full((len(group), width), IGNORE, np.int32)
    for row, window in enumerate(group):
        tokens[row, : len(window.inputs)], targets[row, : len(window.targets)] = window.inputs, window.targets
    return tokens, targets
