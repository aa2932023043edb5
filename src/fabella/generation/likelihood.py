"""How surprised a model is by a text, token by token.

The text is read after the end-of-document id, as at training time, so that every token has a probability. The end
of the text is not scored.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.errors import NumericsError, TextError
from fabella.models import IGNORE
from fabella.tokenizers.tokenizer import Tokenizer

Losses = Callable[[Batch], NDArray[np.float32]]
"""Negative log-likelihood of each target in nats, [B T]."""

# Logits held at once: 64 Mi float32 are 256 MiB.
_LOGITS = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """A scored text. All sums are over ``ids``."""

    tokenizer: Tokenizer
    ids: NDArray[np.int32]
    """The scored ids, [T]"""
    nats: NDArray[np.float64]
    """Negative log-likelihood of each, [T]"""
    bytes: int
    """UTF-8 bytes of the scored ids"""
    windows: int
    """How many windows the text was read in"""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return float(self.nats.mean())

    @property
    def perplexity(self) -> float:
        """exp(loss): of how many equally likely tokens the choice would be as hard."""
        return exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Total bits over bytes of text: comparable between tokenizers."""
        return float(self.nats.sum()) / math.log(2) / self.bytes

    def rows(self, limit: int) -> Iterator[dict[str, str | int | float]]:
        """The first ``limit`` tokens: token, id, probability, nats, perplexity."""
        for token, nats in zip(self.ids[:limit].tolist(), self.nats[:limit].tolist(), strict=True):
            yield {
                "token": token_text(self.tokenizer, token),
                "id": token,
                "probability": math.exp(-nats),
                "nats": nats,
                "perplexity": exp(nats),
            }


def exp(nats: float) -> float:
    """e to the ``nats``; infinity where a float64 overflows."""
    return math.exp(nats) if nats < 709.0 else math.inf


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""Text of one token; bytes that are only a part of a character are written ``\xe2``."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def measure(losses: Losses, text: str, tokenizer: Tokenizer, *, context: int, vocab_size: int) -> Perplexity:
    """Score ``text`` in windows of ``context`` tokens. Raises TextError where there is nothing to score.

    A longer text is read in windows that overlap by half: each token but those of the first window is predicted
    from at least ``context // 2`` tokens before it. Memory is bounded by windows times ``vocabulary``.
    """
    ids = tokenizer.encode(text)
    if not len(ids):
        raise TextError("The text has no token to predict.", hint="Give at least a few words.")
    line = np.concatenate([[tokenizer.eos_id], ids]).astype(np.int32)
    nats, windows = _nats(losses, line, context, batch=max(1, _LOGITS // (context * vocab_size)))
    _require_finite(nats, tokenizer, line)
    return Perplexity(
        tokenizer=tokenizer,
        ids=line[1:],
        nats=nats,
        bytes=sum(len(tokenizer.token_bytes(token)) for token in line[1:].tolist()),
        windows=windows,
    )


def _nats(losses: Losses, line: NDArray[np.int32], context: int, *, batch: int) -> tuple[NDArray[np.float64], int]:
    """Negative log-likelihoods of ``line[1:]``, and the number of windows."""
    nats = np.zeros(len(line) - 1)
    starts = window_starts(len(nats), context)
    width = min(context, len(nats))
    for first in range(0, len(starts), batch):
        places = starts[first : first + batch, None] + np.arange(width)
        targets = line[places + 1]
        # Of a window after the first only what no earlier one has scored.
        done = np.concatenate([[0], starts[:-1] + width])[first : first + batch, None]
        targets = np.where(places >= done, targets, IGNORE).astype(np.int32)
        scores = losses(Batch(line[places], targets))
        new = targets != IGNORE
        nats[places[new]] = scores[new]
    return nats, len(starts)


def window_starts(length: int, context: int) -> NDArray[np.int64]:
    """Where the windows begin that predict ``length`` tokens: half a context apart, the last one moved back to fit."""
    last = max(0, length - context)
    stride = max(1, context - context // 2)
    return np.append(np.arange(0, last, stride), last)


def _require_finite(nats: NDArray[np.float64], tokenizer: Tokenizer, line: NDArray[np.int32]) -> None:
    wrong = np.flatnonzero(~np.isfinite(nats))
    if wrong.size:
        token = token_text(tokenizer, int(line[wrong[0] + 1]))
        raise NumericsError(
            f"Token {wrong[0] + 1} ({token!r}) has a negative log-likelihood of {nats[wrong[0]]}.",
            hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
        )
