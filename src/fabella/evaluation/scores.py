"""How well a model predicts documents: in all, by position in its context, document by document; and calibration."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import NumericsError, TextError
from fabella.evaluation.confidence import ConfidenceInterval, exponential, ratio
from fabella.evaluation.predictions import Predict, Predictions
from fabella.evaluation.scoring_batches import Document, ScoringBatch, rows
from fabella.models import IGNORE

CONFIDENCE_BINS = 10
LOGITS_AT_ONCE = 2**24
"""64 MB of float32: enough for the matrix products to run at full speed."""
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """The mean loss of the ``first``-th to ``last``-th prediction of a window; the first is made from nothing."""

    first: int
    last: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Predictions whose likeliest token was given a probability from ``low`` to ``high``."""

    low: float
    high: float
    tokens: int
    confidence: float
    """Their mean probability; not a number where there are none, as ``accuracy``."""
    accuracy: float
    """The share of them that came true."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the likeliest token is right as often as its probability says (Guo et al. 2017, arXiv 1706.04599)."""

    accuracy: float
    confidence: float
    error: float
    """Expected calibration error: the distance of accuracy and confidence in each bin, weighed by its tokens."""
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """One document: its number, counted from 0, and bits per byte."""

    document: int
    bytes: int
    bits_per_byte: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Of all documents together. ``loss`` is in nats a token, the ends of documents among the tokens."""

    documents: int
    tokens: int
    bytes: int
    loss: ConfidenceInterval
    perplexity: ConfidenceInterval
    bits_per_byte: ConfidenceInterval
    places: tuple[PositionLoss, ...]
    calibration: Calibration
    easiest: tuple[DocumentScore, ...]
    """The documents with the fewest bits per byte, the first first."""
    hardest: tuple[DocumentScore, ...]


def score(
    predict: Predict,
    documents: Iterable[Document],
    *,
    context: int,
    vocab_size: int,
    end: int,
    shown: int = 3,
    told: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """Read every document; see ``documents.rows`` for how. Memory grows by some bytes a document only.

    ``told`` hears how many tokens have been read. Raises TextError where there is no document, NumericsError where a
    prediction is not finite.
    """
    tally = ScoreAccumulator(context)
    kept: list[tuple[int, int]] = []

    def counted() -> Iterable[Document]:
        for document in documents:
            kept.append((len(document.ids), document.bytes))
            yield document

    at_once = max(context, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocab_size))
    for part in rows(counted(), context=context, end=end, tokens=at_once):
        tally.add(part, predict(part.batch.tokens, part.batch.targets))
        told(tally.tokens)
    if not kept:
        raise TextError("There is no document to score.", hint="Give text that is not empty.")
    return tally.scores(np.array(kept, np.float64), shown)


class ScoreAccumulator:
    """Sums over predictions, in float64."""

    def __init__(self, context: int) -> None:
        self.tokens = 0
        self._place_nats, self._place_tokens = np.zeros(context), np.zeros(context, np.int64)
        self._bins = np.zeros((3, CONFIDENCE_BINS))  # tokens, confidence, right
        self._nats: list[float] = []

    def add(self, part: ScoringBatch, made: Predictions) -> None:
        """Count what was predicted of these rows."""
        new = part.batch.targets != IGNORE
        nats = np.where(new, made.nats, 0.0).astype(np.float64)
        if not np.isfinite(nats).all():
            raise NumericsError(
                f"A token of document {part.documents[~np.isfinite(nats).all(axis=1)][0]:,} has no finite probability.",
                hint="The weights are damaged or training diverged: try an earlier checkpoint (--checkpoint STEP).",
            )
        self.tokens += int(new.sum())
        width = new.shape[1]
        self._place_nats[:width] += nats.sum(axis=0)
        self._place_tokens[:width] += new.sum(axis=0)
        self._count_documents(part.documents, nats.sum(axis=1))
        confidence = made.confidence[new].astype(np.float64)
        bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        for line, weights in zip(self._bins, (None, confidence, made.correct[new]), strict=True):
            line += np.bincount(bins, weights, minlength=CONFIDENCE_BINS)

    def _count_documents(self, documents: NDArray[np.int64], nats: NDArray[np.float64]) -> None:
        self._nats.extend([0.0] * (int(documents.max()) + 1 - len(self._nats)))
        for document, more in zip(documents.tolist(), nats.tolist(), strict=True):
            self._nats[document] += more

    def scores(self, sizes: NDArray[np.float64], shown: int) -> Scores:
        """All sums as scores; ``sizes`` are tokens and bytes of each document, [N 2]."""
        nats, tokens, size = np.array(self._nats), sizes[:, 0], sizes[:, 1]
        loss, bits = ratio(nats, tokens), ratio(nats / math.log(2), size)
        each = nats / math.log(2) / np.maximum(size, 1)
        order = np.argsort(each, kind="stable")
        named = [DocumentScore(number, int(size[number]), float(each[number])) for number in order[:shown].tolist()]
        worst = [
            DocumentScore(number, int(size[number]), float(each[number])) for number in order[::-1][:shown].tolist()
        ]
        return Scores(
            documents=len(nats),
            tokens=int(tokens.sum()),
            bytes=int(size.sum()),
            loss=loss,
            perplexity=exponential(loss),
            bits_per_byte=bits,
            places=tuple(self._places()),
            calibration=self._calibration(),
            easiest=tuple(named),
            hardest=tuple(worst),
        )

    def _places(self) -> Iterable[PositionLoss]:
        """Positions in groups that double: 1, 2–3, 4–7, …"""
        first = 1
        while first <= len(self._place_tokens):
            last = min(2 * first - 1, len(self._place_tokens))
            tokens = int(self._place_tokens[first - 1 : last].sum())
            if tokens:
                yield PositionLoss(first, last, tokens, float(self._place_nats[first - 1 : last].sum()) / tokens)
            first = last + 1

    def _calibration(self) -> Calibration:
        tokens, confidence, right = self._bins
        with np.errstate(invalid="ignore"):
            mean, accuracy = confidence / tokens, right / tokens
        bins = tuple(
            CalibrationBin(
                k / CONFIDENCE_BINS, (k + 1) / CONFIDENCE_BINS, int(tokens[k]), float(mean[k]), float(accuracy[k])
            )
            for k in range(CONFIDENCE_BINS)
        )
        total = tokens.sum()
        error = float(np.abs(right - confidence).sum() / total)
        return Calibration(float(right.sum() / total), float(confidence.sum() / total), error, bins)
