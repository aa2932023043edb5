"""The data doctor: looks at every document on its way, and says what is wrong with the text before it is trained on.

Memory is 8 bytes a document (half of its digest, for counting duplicates) and the counts of distinct lengths.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.storage import number_of
from fabella.text.quality_signs import SIGNS, mojibake_signs
from fabella.text.read_report import ReadReport

BYTES_PER_TOKEN = 4.0
"""of English with a vocabulary of a few thousand, about; used until tokens were counted"""
REPEATS_THAT_HELP = 4
"""epochs up to which seeing text again is nearly as good as new text (Muennighoff et al. 2023, arXiv 2305.16264)"""
REPEATS_THAT_END = 16
"""epochs beyond which it brings next to nothing (the same)"""
FEW_VALIDATION_DOCUMENTS = 10
MANY_DUPLICATES = 0.05
"""share of documents that repeat others, from which it is worth a warning"""


@dataclass(slots=True)
class SplitStats:
    """Training or validation text."""

    documents: int = 0
    bytes: int = 0
    digests: "array[int]" = field(default_factory=lambda: array("Q"))

    def distinct(self) -> NDArray[np.uint64]:
        """The digests, sorted, each once. Sorts them where they are: their order says nothing."""
        digests = np.frombuffer(self.digests, dtype=np.uint64) if self.digests else np.empty(0, np.uint64)
        digests.sort()
        return digests[np.append(True, digests[1:] != digests[:-1])] if len(digests) else digests


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found: facts for programs, warnings and a table for people."""

    facts: dict[str, Any]
    warnings: list[str]
    table: str


class DataQuality:
    """Give it every document once (``see``), and the token counts if there are any; then ask for the report."""

    def __init__(self) -> None:
        self._sides = {False: SplitStats(), True: SplitStats()}
        self._characters = 0
        self._empty = 0
        self._signs: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    @property
    def sides(self) -> tuple[SplitStats, SplitStats]:
        """Training and validation text."""
        return self._sides[False], self._sides[True]

    def add(self, text: str, digest: bytes, held_out: bool) -> None:
        """Take note of one document; ``digest`` as of ``split.digest``, ``held_out`` if it is for validation."""
        data = text.encode()
        side = self._sides[held_out]
        side.documents += 1
        side.bytes += len(data)
        side.digests.append(int.from_bytes(digest[:8], "big"))
        self._characters += len(text)
        self._sizes[len(data)] += 1
        self._empty += not text or text.isspace()
        for sign in mojibake_signs(text, data):
            self._signs[sign] += 1

    def see_tokens(self, lengths: NDArray[np.integer[Any]]) -> None:
        """Take note of how many tokens some of the documents have, [documents]."""
        values, counts = np.unique(lengths, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._tokens[value] += count

    def report(
        self, *, context: int = 0, model_parameters: int = 0, tokens_to_train: int = 0, notes: ReadReport | None = None
    ) -> Report:
        """Facts, warnings and a table. What is 0 is not known, and nothing is said of it.

        ``context``: tokens a model sees at once. ``tokens_to_train``: all tokens that training will read, repeats
        included. ``notes``: what reading left out or mended, to be told as well.
        """
        facts = self._facts(notes)
        if self._tokens:
            facts |= self._token_facts(context, model_parameters, tokens_to_train)
        return Report(facts, list(_warnings(facts)), _table(facts))

    def _facts(self, notes: ReadReport | None) -> dict[str, Any]:
        train, held = self._sides[False], self._sides[True]
        in_train, in_held = train.distinct(), held.distinct()
        both = int(np.isin(in_held, in_train, assume_unique=True, kind="sort").sum())
        return {
            "documents": train.documents + held.documents,
            "bytes": train.bytes + held.bytes,
            "characters": self._characters,
            "training": {"documents": train.documents, "bytes": train.bytes},
            "validation": {"documents": held.documents, "bytes": held.bytes},
            "empty": self._empty + (notes.empty if notes else 0),
            "duplicates": train.documents + held.documents - len(in_train) - len(in_held) + both,
            "overlap": both,
            "damage": {sign: self._signs[sign] for sign in SIGNS} | self._lost_before(notes),
            "reading": notes.counts() if notes else {},
            "document_bytes": _spread(self._sizes),
        }

    def _lost_before(self, notes: ReadReport | None) -> dict[str, int]:
        """Documents that held U+FFFD before reading put it in for other damage, which is told as such."""
        sign = "replacement_characters"
        return {sign: max(self._signs[sign] - (notes.mended if notes else 0), 0)}

    def _token_facts(self, context: int, model_parameters: int, tokens_to_train: int) -> dict[str, Any]:
        tokens = sum(length * count for length, count in self._tokens.items())
        size = self._sides[False].bytes + self._sides[True].bytes
        training = tokens * self._sides[False].bytes / max(size, 1)
        facts: dict[str, Any] = {
            "tokens": tokens,
            "bytes_per_token": size / max(tokens, 1),
            "document_tokens": _spread(self._tokens),
        }
        if context:
            longer = sum(count for length, count in self._tokens.items() if length > context)
            facts |= {"context_length": context, "longer_than_context": longer}
        if model_parameters:
            facts |= {"model_parameters": model_parameters, "tokens_per_parameter": training / model_parameters}
        if tokens_to_train:
            facts |= {"tokens_to_train": tokens_to_train, "epochs": tokens_to_train / max(training, 1)}
        return facts


def _spread(counts: Mapping[int, int]) -> dict[str, float]:
    """Smallest, quantiles, largest and mean of lengths given as length → how often."""
    if not counts:
        return {}
    lengths = np.array(sorted(counts))
    often = np.array([counts[length] for length in lengths.tolist()])
    below = np.cumsum(often)

    def quantile(share: float) -> int:
        return int(lengths[np.searchsorted(below, share * below[-1])])

    return {
        "least": int(lengths[0]),
        "median": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "most": int(lengths[-1]),
        "mean": float((lengths * often).sum() / below[-1]),
    }


def _warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    documents = facts["documents"]
    for sign, count in facts["damage"].items():
        if count:
            yield f"{count:,} of {documents:,} documents {SIGNS[sign]}."
    reading = facts["reading"]
    if reading.get("damaged"):
        are = "is" if reading["damaged"] == 1 else "are"
        what = number_of(reading["damaged"], "document")
        yield f"{what} {are} damaged: bytes that are no UTF-8, NUL, or half characters."
    if reading.get("bad_lines"):
        were = "is broken and was" if reading["bad_lines"] == 1 else "are broken and were"
        yield f"{number_of(reading['bad_lines'], 'line')} {were} left out."
    if facts["duplicates"] > MANY_DUPLICATES * documents:
        share = 100 * facts["duplicates"] / documents
        yield f"{share:.0f} % of the documents repeat others word for word; they will be learned by heart first."
    yield from _validation_warnings(facts)
    yield from _size_warnings(facts)


def _validation_warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    held = facts["validation"]["documents"]
    if facts["overlap"]:
        what = number_of(facts["overlap"], "validation document")
        stand = "stands" if facts["overlap"] == 1 else "stand"
        yield f"{what} also {stand} in the training text: validation will look too good."
    if not held:
        yield "Nothing is held out for validation."
    elif held < FEW_VALIDATION_DOCUMENTS:
        are = "is" if held == 1 else "are"
        yield f"Only {number_of(held, 'document')} {are} held out for validation: its loss will be a rough guess."


def _size_warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    context = facts.get("context_length", 0)
    if context and facts["document_tokens"]["median"] > context:
        yield (
            f"Most documents are longer than the context of {context:,} tokens (median "
            f"{facts['document_tokens']['median']:,}): the model never sees one whole. "
            "Windows of kind 'documents' leave out what lies beyond it; 'chained' ones read everything."
        )
    per_parameter = facts.get("tokens_per_parameter", 0)
    if 0 < per_parameter < 1:
        yield (
            f"The text is too small for the model: {facts['model_parameters']:,} parameters and only "
            f"{per_parameter:.2g} tokens for each. It will learn it by heart. Take a smaller model, or bring more text."
        )
    epochs = facts.get("epochs", 0)
    if epochs > REPEATS_THAT_END:
        yield f"Training reads the text {epochs:.0f} times; after {REPEATS_THAT_END} times it teaches hardly anything."
    elif epochs > REPEATS_THAT_HELP:
        yield f"Training reads the text {epochs:.1f} times; after {REPEATS_THAT_HELP} times each repeat teaches less."


def _table(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"{name:<26}{value}" for name, value in _rows(facts))


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    training, held = facts["training"], facts["validation"]
    yield "documents", f"{facts['documents']:,} ({training['documents']:,} to train, {held['documents']:,} to validate)"
    yield "size", f"{in_bytes(facts['bytes'])}, {facts['characters']:,} characters"
    yield "document length", _told(facts["document_bytes"], "bytes")
    yield "empty documents", f"{facts['empty']:,}"
    yield "duplicates", f"{facts['duplicates']:,}"
    yield "train/validation overlap", f"{facts['overlap']:,}"
    damaged = sum(facts["damage"].values()) + facts["reading"].get("damaged", 0)
    yield "signs of damage", f"{damaged:,}"
    if "tokens" in facts:
        yield "tokens", f"{facts['tokens']:,} ({facts['bytes_per_token']:.2f} bytes each)"
        yield "tokens a document", _told(facts["document_tokens"], "tokens")
    else:
        enough = facts["training"]["bytes"] / BYTES_PER_TOKEN
        about = f"{float(f'{enough:.2g}'):,.0f}"
        yield "enough for a model of", f"about {about} parameters at most, at {BYTES_PER_TOKEN:.0f} bytes a token"
    if "context_length" in facts:
        share = 100 * facts["longer_than_context"] / max(facts["documents"], 1)
        yield (
            "longer than context",
            f"{facts['longer_than_context']:,} ({share:.1f} %) exceed {facts['context']:,} tokens",
        )
    if "tokens_per_parameter" in facts:
        yield "tokens a parameter", f"{facts['tokens_per_parameter']:.2f}"
    if "epochs" in facts:
        yield "epochs", f"{facts['epochs']:.2f} in {facts['tokens_to_train']:,} tokens of training"


def _told(spread: Mapping[str, float], unit: str) -> str:
    if not spread:
        return "-"
    return f"{spread['least']:,} … {spread['median']:,} (median) … {spread['p99']:,} (99 %) … {spread['most']:,} {unit}"


def in_bytes(count: int) -> str:
    """``1.5 MB``: powers of ten, as disks are sold."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
