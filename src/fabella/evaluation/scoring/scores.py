"""Held-out scores: loss, perplexity and bits per byte; loss by position; calibration; best and worst documents."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.config.scoring import ScoringRule
from fabella.errors import NumericsError, TextError
from fabella.evaluation.confidence import ConfidenceInterval, exponential, ratio
from fabella.evaluation.scoring.batches import Document, ScoringBatch, batches, line_batches
from fabella.evaluation.scoring.predictions import Predict, Predictions
from fabella.models import IGNORE

CONFIDENCE_BINS = 10
MAX_LOGITS = 2**24
"""Maximum number of logits of a batch: 64 MB of float32 are enough for matrix products at full speed."""
MAX_BATCH_TOKENS = 8192
"""Maximum number of tokens of a batch."""


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """Mean loss at positions ``first`` to ``last`` of the context, counted from 1; position 1 has no context."""

    first: int
    last: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Predictions whose most likely token has a probability from ``low`` to ``high``."""

    low: float
    high: float
    tokens: int
    confidence: float
    """Mean probability of the most likely token; NaN in an empty bin, as is ``accuracy``."""
    accuracy: float
    """Share of correct predictions."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Accuracy of the most likely token compared with its probability (Guo et al. 2017, arXiv 1706.04599)."""

    accuracy: float
    confidence: float
    error: float
    """Expected calibration error: |accuracy - confidence| per bin, weighted by its tokens."""
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """Bits per byte of one document; documents are counted from 0."""

    document: int
    bytes: int
    bits_per_byte: float


@dataclass(frozen=True, slots=True, eq=False)
class DocumentLosses:
    """Losses of all documents, [N] each."""

    nats: NDArray[np.float64]
    """Nats of the scored tokens."""
    scored: NDArray[np.int64]
    """Scored tokens."""
    tokens: NDArray[np.int64]
    """Tokens to score; a sequence of ``line`` may lack some of the first and of the last document."""
    bytes: NDArray[np.int64]
    """Bytes of the text of ``tokens``."""

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Documents of which all tokens are scored, and that have text."""
        return (self.scored == self.tokens) & (self.bytes > 0)

    @property
    def bits_per_byte(self) -> NDArray[np.float64]:
        """Bits of the scored tokens per byte of the document."""
        return self.nats / math.log(2) / np.maximum(self.bytes, 1)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores over all documents. ``loss`` is in nats per token, EOS tokens included."""

    rule: str
    """Name of the ScoringRule: ``line-256``, ``story-256``."""
    documents: int
    tokens: int
    bytes: int
    loss: ConfidenceInterval
    perplexity: ConfidenceInterval
    bits_per_byte: ConfidenceInterval
    positions: tuple[PositionLoss, ...]
    calibration: Calibration
    easiest: tuple[DocumentScore, ...]
    """Documents with the fewest bits per byte, in this order."""
    hardest: tuple[DocumentScore, ...]
    """Documents with the most bits per byte, in this order."""


def score(
    predict: Predict,
    documents: Iterable[Document],
    rule: ScoringRule,
    *,
    vocab_size: int,
    eos_id: int,
    listed: int = 3,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """Score documents by the rule ``line`` or ``story``; memory grows by some bytes per document.

    ``documents`` have their BOS ids for ``line`` only (``packed`` of ``batches``). ``eos_id`` precedes each document of
    ``story``. ``listed``: number of easiest and hardest documents in the result. ``progress`` is called with the number
    of tokens so far. Raises TextError without a document, or without a whole sequence of ``line``; NumericsError for a
    prediction that is not finite.
    """
    sums = accumulate(predict, documents, rule, vocab_size=vocab_size, eos_id=eos_id, progress=progress)
    return sums.scores(listed)


def accumulate(
    predict: Predict,
    documents: Iterable[Document],
    rule: ScoringRule,
    *,
    vocab_size: int,
    eos_id: int,
    progress: Callable[[int], None] = lambda tokens: None,
) -> "ScoreAccumulator":
    """Return the sums over all documents; arguments and errors are those of ``score``."""
    sums = ScoreAccumulator(rule)

    def counted() -> Iterable[Document]:
        for document in documents:
            sums.sizes.append((document.num_scored, document.bytes))
            yield document

    tokens = max(rule.length, min(MAX_BATCH_TOKENS, MAX_LOGITS // vocab_size))
    if rule.kind == "line":
        parts = line_batches(counted(), length=rule.length, tokens=tokens)
    else:
        parts = batches(counted(), context=rule.length, eos_id=eos_id, tokens=tokens)
    for part in parts:
        sums.add(part, predict(part.batch.tokens, part.batch.targets))
        progress(sums.tokens)
    if not sums.sizes:
        raise TextError("No document to score.", hint="Give text that is not empty.")
    if not sums.tokens:
        total = sum(tokens for tokens, _ in sums.sizes)
        raise TextError(
            f"The text has {total:,} tokens; {rule} needs {rule.length + 1:,} for one sequence.",
            hint=f"Use more text, or shorter sequences: --length {max(total - 1, 1)}",
        )
    return sums


class ScoreAccumulator:
    """Sums over predictions, in float64."""

    def __init__(self, rule: ScoringRule) -> None:
        self.rule = rule
        self.tokens = 0
        self.sizes: list[tuple[int, int]] = []
        """Tokens and bytes of each document; scored tokens only."""
        self._position_nats, self._position_tokens = np.zeros(rule.length), np.zeros(rule.length, np.int64)
        self._bins = np.zeros((3, CONFIDENCE_BINS))  # tokens, confidence, correct
        self._nats: list[float] = []
        self._scored: list[int] = []

    def add(self, part: ScoringBatch, predictions: Predictions) -> None:
        """Add the predictions of a batch. Raises NumericsError for one that is not finite."""
        scored = part.batch.targets != IGNORE
        nats = np.where(scored, predictions.nats, 0.0).astype(np.float64)
        documents = np.broadcast_to(part.documents, nats.shape)
        if not np.isfinite(nats).all():
            raise NumericsError(
                f"A token of document {documents[~np.isfinite(nats)][0]:,} has no finite probability.",
                hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
            )
        self.tokens += int(scored.sum())
        width = scored.shape[1]
        self._position_nats[:width] += nats.sum(axis=0)
        self._position_tokens[:width] += scored.sum(axis=0)
        self._count_documents(documents, nats, scored)
        confidence = predictions.confidence[scored].astype(np.float64)
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        for line, weights in zip(self._bins, (None, confidence, predictions.correct[scored]), strict=True):
            line += np.bincount(bins, weights, minlength=CONFIDENCE_BINS)

    def _count_documents(
        self, documents: NDArray[np.int64], nats: NDArray[np.float64], scored: NDArray[np.bool_]
    ) -> None:
        missing = int(documents.max()) + 1 - len(self._nats)
        self._nats.extend([0.0] * missing)
        self._scored.extend([0] * missing)
        numbers, places = np.unique(documents, return_inverse=True)
        sums = np.bincount(places.ravel(), nats.ravel()).tolist()
        counts = np.bincount(places.ravel(), scored.ravel()).tolist()
        for number, more, count in zip(numbers.tolist(), sums, counts, strict=True):
            self._nats[number] += more
            self._scored[number] += int(count)

    def documents(self) -> DocumentLosses:
        """Return the losses of all documents, also of those that no sequence contains."""
        rest = len(self.sizes) - len(self._nats)
        sizes = np.array(self.sizes, np.int64)
        return DocumentLosses(
            nats=np.array(self._nats + [0.0] * rest),
            scored=np.array(self._scored + [0] * rest, np.int64),
            tokens=sizes[:, 0],
            bytes=sizes[:, 1],
        )

    def scores(self, listed: int) -> Scores:
        """Return the scores. ``listed``: number of easiest and hardest documents."""
        losses = self.documents()
        used = losses.scored > 0
        loss = ratio(losses.nats[used], losses.scored[used].astype(np.float64))
        whole = np.flatnonzero(losses.whole)
        per_document = losses.bits_per_byte[whole]
        order = np.argsort(per_document, kind="stable")

        def ranked(places: NDArray[np.int64]) -> tuple[DocumentScore, ...]:
            return tuple(
                DocumentScore(int(whole[place]), int(losses.bytes[whole[place]]), float(per_document[place]))
                for place in places[:listed].tolist()
            )

        return Scores(
            rule=self.rule.name,
            documents=int(used.sum()),
            tokens=self.tokens,
            bytes=int(losses.bytes[used].sum()),
            loss=loss,
            perplexity=exponential(loss),
            bits_per_byte=self._bits_per_byte(losses, loss),
            positions=tuple(self._positions()),
            calibration=self._calibration(),
            easiest=ranked(order),
            hardest=ranked(order[::-1]),
        )

    def _bits_per_byte(self, losses: DocumentLosses, loss: ConfidenceInterval) -> ConfidenceInterval:
        """Return all bits over all bytes. Sequences of ``line`` lack a few tokens: there, as in training, the loss per
        token is multiplied by the tokens per byte of the whole text."""
        if self.rule.kind == "story":
            return ratio(losses.nats / math.log(2), losses.bytes.astype(np.float64))
        bits = float(losses.tokens.sum()) / max(float(losses.bytes.sum()), 1.0) / math.log(2)
        return ConfidenceInterval(loss.value * bits, loss.low * bits, loss.high * bits)

    def _positions(self) -> Iterable[PositionLoss]:
        """Yield positions in groups of doubling size: 1, 2–3, 4–7, …"""
        first = 1
        while first <= len(self._position_tokens):
            last = min(2 * first - 1, len(self._position_tokens))
            tokens = int(self._position_tokens[first - 1 : last].sum())
            if tokens:
                yield PositionLoss(first, last, tokens, float(self._position_nats[first - 1 : last].sum()) / tokens)
            first = last + 1

    def _calibration(self) -> Calibration:
        tokens, confidence, correct = self._bins
        with np.errstate(invalid="ignore"):
            mean, accuracy = confidence / tokens, correct / tokens
        bins = tuple(
            CalibrationBin(
                k / CONFIDENCE_BINS, (k + 1) / CONFIDENCE_BINS, int(tokens[k]), float(mean[k]), float(accuracy[k])
            )
            for k in range(CONFIDENCE_BINS)
        )
        total = tokens.sum()
        error = float(np.abs(correct - confidence).sum() / total)
        return Calibration(float(correct.sum() / total), float(confidence.sum() / total), error, bins)
