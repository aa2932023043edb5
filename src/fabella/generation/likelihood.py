"""Perplexity of a text: the loss of every token, in nats.

The EOS token precedes the text, as in training, so that the first token has a probability as well. The EOS token after
the text is not scored.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.data.batches import Batch
from fabella.errors import NumericsError, TextError
from fabella.models import IGNORE
from fabella.storage import format_exp
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tracking.notebook import html_tokens

TokenLosses = Callable[[Batch], NDArray[np.float32]]
"""Function from a batch to the loss of each target in nats, [B, T]."""

MAX_LOGITS = 2**26
"""Logits computed at once; as float32 they take 256 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Perplexity:
    """Scored text. All sums run over ``ids``."""

    tokenizer: Tokenizer
    ids: NDArray[np.int32]
    """Scored token ids, [T]."""
    nats: NDArray[np.float64]
    """Loss of each token in nats, [T]."""
    bytes: int
    """UTF-8 bytes of the scored tokens."""
    sequences: int
    """Number of overlapping sequences that the text was scored in."""

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return float(self.nats.mean())

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Total bits divided by the bytes of the text; comparable across tokenizers."""
        return float(self.nats.sum()) / math.log(2) / self.bytes

    def __repr__(self) -> str:
        return f"Perplexity({self._summary()})"

    def _repr_html_(self) -> str:
        """Return the text with each token colored by its loss, for a notebook."""
        tokens = [token_text(self.tokenizer, token) for token in self.ids.tolist()]
        return html_tokens(tokens, self.nats.tolist()) + f"<p>{self._summary()}</p>"

    def _summary(self) -> str:
        loss, bits = f"loss {self.loss:.4f}", f"{self.bits_per_byte:.4f} bits per byte"
        return f"{len(self.ids):,} tokens: {loss}, perplexity {format_exp(self.loss)}, {bits}"

    def rows(self, limit: int) -> Iterator[dict[str, str | int | float]]:
        """Yield a dict for each of the first ``limit`` tokens: token, id, probability, nats, perplexity."""
        for token, nats in zip(self.ids[:limit].tolist(), self.nats[:limit].tolist(), strict=True):
            yield {
                "token": token_text(self.tokenizer, token),
                "id": token,
                "probability": math.exp(-nats),
                "nats": nats,
                "perplexity": exp(nats),
            }


TokenLogprobs = tuple[tuple[int, float], ...]
"""Token ids with their log-probabilities in nats, in descending order of the latter."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Scores of ids[1:] of a prompt, each predicted from the ids before it."""

    log_probabilities: list[float]
    """Log-probability of each token in nats, [T - 1]."""
    alternatives: list[TokenLogprobs]
    """Most likely ids at the position of each token, [T - 1]."""


def exp(nats: float) -> float:
    """Return e to the power of ``nats``, or infinity if a float64 overflows."""
    return math.inf if nats >= 709.0 else math.exp(nats)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""Return the text of one token; a byte that is only a part of a character becomes ``\xe2``."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def measure(
    token_losses: TokenLosses, text: str, tokenizer: Tokenizer, *, context_length: int, vocab_size: int
) -> Perplexity:
    """Score ``text`` in sequences of ``context_length`` tokens. Raises TextError if the text has no tokens.

    A longer text is scored in sequences that overlap by half: after the first sequence, each token is predicted from at
    least ``context_length // 2`` tokens before it. ``vocab_size`` bounds the batch size, see ``MAX_LOGITS``.
    """
    ids = tokenizer.encode(text)
    if not len(ids):
        raise TextError("The text has no token to predict.", hint="Give at least a few words.")
    inputs = np.concatenate([[prefix_id(tokenizer)], ids]).astype(np.int32)
    batch_size = max(1, MAX_LOGITS // (context_length * vocab_size))
    nats, sequences = _score(token_losses, inputs, context_length, batch_size=batch_size)
    _require_finite(nats, tokenizer, inputs)
    return Perplexity(
        tokenizer=tokenizer,
        ids=inputs[1:],
        nats=nats,
        bytes=sum(len(tokenizer.token_bytes(token)) for token in inputs[1:].tolist()),
        sequences=sequences,
    )


def _score(
    token_losses: TokenLosses, inputs: NDArray[np.int32], context_length: int, *, batch_size: int
) -> tuple[NDArray[np.float64], int]:
    """Return the losses of ``inputs[1:]`` in nats, [T], and the number of sequences."""
    nats = np.zeros(len(inputs) - 1)
    starts = sequence_starts(len(nats), context_length)
    width = min(context_length, len(nats))
    for first in range(0, len(starts), batch_size):
        positions = starts[first : first + batch_size, None] + np.arange(width)
        targets = inputs[positions + 1]
        # A sequence after the first only scores tokens that no earlier one has scored.
        scored = np.concatenate([[0], starts[:-1] + width])[first : first + batch_size, None]
        targets = np.where(positions >= scored, targets, IGNORE).astype(np.int32)
        losses = token_losses(Batch(inputs[positions], targets))
        new = targets != IGNORE
        nats[positions[new]] = losses[new]
    return nats, len(starts)


def sequence_starts(length: int, context_length: int) -> NDArray[np.int64]:
    """Return where the sequences that predict ``length`` tokens start: half a context apart, the last one flush."""
    last = max(0, length - context_length)
    stride = max(1, context_length - context_length // 2)
    return np.append(np.arange(0, last, stride), last)


def _require_finite(nats: NDArray[np.float64], tokenizer: Tokenizer, inputs: NDArray[np.int32]) -> None:
    invalid = np.flatnonzero(~np.isfinite(nats))
    if invalid.size:
        token = token_text(tokenizer, int(inputs[invalid[0] + 1]))
        raise NumericsError(
            f"Token {invalid[0] + 1} ({token!r}) has a loss of {nats[invalid[0]]}.",
            hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
        )
