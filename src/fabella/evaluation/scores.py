"""Held-out scores: loss, perplexity and bits per byte; loss by position; calibration; best and worst documents."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError, TextError
from fabella.evaluation.confidence import ConfidenceInterval, exponential, ratio
from fabella.evaluation.predictions import Predict, Predictions
from fabella.evaluation.scoring_batches import Document, ScoringBatch, batches
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


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores over all documents. ``loss`` is in nats per token, EOS tokens included."""

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
    *,
    context: int,
    vocab_size: int,
    eos_id: int,
    listed: int = 3,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """Score all documents in the batches of ``scoring_batches.batches``; memory grows by some bytes per document.

    ``listed``: number of easiest and hardest documents in the result. ``progress`` is called with the number of tokens
    so far. Raises TextError without a document, NumericsError for a prediction that is not finite.
    """
    accumulator = ScoreAccumulator(context)
    sizes: list[tuple[int, int]] = []

    def counted() -> Iterable[Document]:
        for document in documents:
            sizes.append((document.num_scored, document.bytes))
            yield document

    tokens = max(context, min(MAX_BATCH_TOKENS, MAX_LOGITS // vocab_size))
    for part in batches(counted(), context=context, eos_id=eos_id, tokens=tokens):
        accumulator.add(part, predict(part.batch.tokens, part.batch.targets))
        progress(accumulator.tokens)
    if not sizes:
        raise TextError("No document to score.", hint="Give text that is not empty.")
    return accumulator.scores(np.array(sizes, np.float64), listed)


class ScoreAccumulator:
    """Sums over predictions, in float64."""

    def __init__(self, context: int) -> None:
        self.tokens = 0
        self._position_nats, self._position_tokens = np.zeros(context), np.zeros(context, np.int64)
        self._bins = np.zeros((3, CONFIDENCE_BINS))  # tokens, confidence, correct
        self._nats: list[float] = []

    def add(self, part: ScoringBatch, predictions: Predictions) -> None:
        """Add the predictions of a batch. Raises NumericsError for one that is not finite."""
        scored = part.batch.targets != IGNORE
        nats = np.where(scored, predictions.nats, 0.0).astype(np.float64)
        if not np.isfinite(nats).all():
            raise NumericsError(
                f"A token of document {part.documents[~np.isfinite(nats).all(axis=1)][0]:,} has no finite probability.",
                hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
            )
        self.tokens += int(scored.sum())
        width = scored.shape[1]
        self._position_nats[:width] += nats.sum(axis=0)
        self._position_tokens[:width] += scored.sum(axis=0)
        self._count_documents(part.documents, nats.sum(axis=1))
        confidence = predictions.confidence[scored].astype(np.float64)
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        for line, weights in zip(self._bins, (None, confidence, predictions.correct[scored]), strict=True):
            line += np.bincount(bins, weights, minlength=CONFIDENCE_BINS)

    def _count_documents(self, documents: NDArray[np.int64], nats: NDArray[np.float64]) -> None:
        self._nats.extend([0.0] * (int(documents.max()) + 1 - len(self._nats)))
        for document, more in zip(documents.tolist(), nats.tolist(), strict=True):
            self._nats[document] += more

    def scores(self, sizes: NDArray[np.float64], listed: int) -> Scores:
        """Return the scores. ``sizes``: tokens and bytes of each document, [N 2]."""
        nats, tokens, size = np.array(self._nats), sizes[:, 0], sizes[:, 1]
        loss, bits = ratio(nats, tokens), ratio(nats / math.log(2), size)
        per_document = nats / math.log(2) / np.maximum(size, 1)
        order = np.argsort(per_document, kind="stable")

        def ranked(numbers: NDArray[np.int64]) -> tuple[DocumentScore, ...]:
            return tuple(DocumentScore(n, int(size[n]), float(per_document[n])) for n in numbers[:listed].tolist())

        return Scores(
            documents=len(nats),
            tokens=int(tokens.sum()),
            bytes=int(size.sum()),
            loss=loss,
            perplexity=exponential(loss),
            bits_per_byte=bits,
            positions=tuple(self._positions()),
            calibration=self._calibration(),
            easiest=ranked(order),
            hardest=ranked(order[::-1]),
        )

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
