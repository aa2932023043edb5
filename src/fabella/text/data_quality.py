"""Data quality report: damage, duplicates, document lengths and split of a text, before training on it.

Memory is 8 bytes per document (half of its hash, to count duplicates) and one count per distinct length.
"""

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.storage import format_bytes, number_of
from fabella.text.boundaries.preview import Preview, format_preview
from fabella.text.chat.marks import learned_text, plain_text
from fabella.text.read_report import ReadReport

REPEATS_THAT_HELP = 4
"""Epochs up to which repeated text is nearly as good as new text (Muennighoff et al. 2023, arXiv 2305.16264)."""
REPEATS_THAT_END = 16
"""Epochs beyond which repeated text brings next to nothing (same paper)."""
FEW_VALIDATION_DOCUMENTS, FEW_VALIDATION_BYTES = 10, 2**15
"""Validation documents and bytes; with fewer of both, the validation loss is a rough estimate."""
SHORT_DOCUMENT, MANY_SHORT_DOCUMENTS = 200, 1000
"""Median bytes of a document, and number of documents, from which on short documents are worth a warning."""
MANY_DUPLICATES = 0.05
"""Share of repeated documents, 0 to 1, above which a warning is due."""

CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\f") + b"\x7f"
# UTF-8 read as Latin-1 or Windows-1252 and written again: "é" has become "Ã©", "’" "â€™".
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf]|\u00c2[\u0080-\u00bf]|\u00e2\u20ac|\u00e2\u0080|\u00f0\u0178|\u00f0\u009f")
MARKUP = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d+|#x[0-9a-f]+);|</?(?:p|br|div|span|a|b|i|li|ul|td|tr)\b[^>]*>", re.I
)

SIGNS = {
    "replacement_characters": "contain U+FFFD, where a character was lost",
    "mojibake": "contain letters like \u00c3\u00a9 for \u00e9: UTF-8 that was read as Latin-1",
    "control_characters": "contain control characters",
    "markup": "contain HTML (tags, or entities like &amp;)",
    "not_composed": "spell accents as separate characters (not NFC); the same word in two spellings is two words",
}
"""Sign of damage in valid UTF-8 → description of the documents that show it."""


def mojibake_signs(text: str, data: bytes) -> list[str]:
    """Return the keys of ``SIGNS`` that a document shows; ``data`` is its UTF-8. Fast for text without any."""
    signs: list[str] = []
    if len(data) != len(data.translate(None, CONTROL)):
        signs.append("control_characters")
    if ("&" in text or "<" in text) and MARKUP.search(text):
        signs.append("markup")
    if len(data) == len(text):  # ASCII
        return signs
    if "\N{REPLACEMENT CHARACTER}" in text:
        signs.append("replacement_characters")
    if MOJIBAKE.search(text):
        signs.append("mojibake")
    if not unicodedata.is_normalized("NFC", text):
        signs.append("not_composed")
    return signs


@dataclass(slots=True)
class SplitStats:
    """Counts and document hashes of the training or the validation split."""

    documents: int = 0
    bytes: int = 0
    answered: int = 0
    """Documents with an answer"""
    digests: "array[int]" = field(default_factory=lambda: array("Q"))

    def distinct(self) -> NDArray[np.uint64]:
        """Return the distinct digests in ascending order. Sorts ``digests`` in place: their order has no meaning."""
        digests = np.frombuffer(self.digests, dtype=np.uint64) if self.digests else np.empty(0, np.uint64)
        digests.sort()
        return digests[np.append(True, digests[1:] != digests[:-1])] if len(digests) else digests


@dataclass(frozen=True, slots=True)
class Report:
    """Data quality report: facts for ``--json``, warnings and a table for the terminal."""

    facts: dict[str, Any]
    warnings: list[str]
    table: str


class DataQuality:
    """Statistics of a text: ``add`` every document, ``add_token_counts`` of the tokenized ones, then ``report``."""

    def __init__(self, *, responses_only: bool = False) -> None:
        """Create statistics of no documents. ``responses_only``: the loss is on responses alone."""
        self._responses_only = responses_only
        self._splits = {False: SplitStats(), True: SplitStats()}
        self._characters = 0
        self._empty = 0
        self._signs: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        self._preview = Preview()

    @property
    def splits(self) -> tuple[SplitStats, SplitStats]:
        """Statistics of the training and of the validation split."""
        return self._splits[False], self._splits[True]

    def add(self, text: str, digest: bytes, held_out: bool) -> None:
        """Count one document, without the marks of a chat template.

        ``digest`` is its ``document_hash``, ``held_out`` means the validation split.
        """
        text, learned = plain_text(text), learned_text(text)
        data = text.encode()
        split = self._splits[held_out]
        split.documents += 1
        split.bytes += len(data)
        split.answered += bool(learned)
        split.digests.append(int.from_bytes(digest[:8], "big"))
        self._characters += len(text)
        if not held_out:
            self._preview.add(text, len(data), learned)
        self._sizes[len(data)] += 1
        self._empty += not text or text.isspace()
        for sign in mojibake_signs(text, data):
            self._signs[sign] += 1

    def add_token_counts(self, lengths: NDArray[np.integer[Any]]) -> None:
        """Count the lengths of some documents in tokens, [documents]."""
        values, counts = np.unique(lengths, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._tokens[value] += count

    def report(
        self, *, context: int = 0, model_parameters: int = 0, tokens_to_train: int = 0, notes: ReadReport | None = None
    ) -> Report:
        """Return facts, warnings and a table. An argument of 0 means unknown, and nothing is reported about it.

        ``context``: context length in tokens. ``tokens_to_train``: tokens of the whole training run, repeats included.
        ``notes``: documents and lines that were left out or repaired while reading; they are reported, too.
        """
        facts = self._facts(notes)
        if self._tokens:
            facts |= self._token_facts(context, model_parameters, tokens_to_train)
        ineffective = notes.warnings() if notes else ()
        warnings = _warnings(facts, cut_by_guess=notes is not None and notes.is_cut_by_guess())
        return Report(facts, [*ineffective, *warnings], _table(facts))

    def _facts(self, notes: ReadReport | None) -> dict[str, Any]:
        train, validation = self._splits[False], self._splits[True]
        train_digests, validation_digests = train.distinct(), validation.distinct()
        overlap = int(np.isin(validation_digests, train_digests, assume_unique=True, kind="sort").sum())
        documents = train.documents + validation.documents
        return {
            "documents": documents,
            "bytes": train.bytes + validation.bytes,
            "characters": self._characters,
            "training": {"documents": train.documents, "bytes": train.bytes},
            "validation": {"documents": validation.documents, "bytes": validation.bytes},
            "empty": self._empty + (notes.empty if notes else 0),
            "duplicates": documents - len(train_digests) - len(validation_digests) + overlap,
            "overlap": overlap,
            "damage": {sign: self._signs[sign] for sign in SIGNS} | self._lost_before(notes),
            "reading": notes.counts() if notes else {},
            "document_bytes": _spread(self._sizes),
            "preview": self._preview.documents(),
            **(
                {"answered": {"training": train.answered, "validation": validation.answered}}
                if self._responses_only
                else {}
            ),
        }

    def _lost_before(self, notes: ReadReport | None) -> dict[str, int]:
        """Count documents that contained U+FFFD in the source; U+FFFD inserted for damage is reported apart."""
        sign = "replacement_characters"
        return {sign: max(self._signs[sign] - (notes.mended if notes else 0), 0)}

    def _token_facts(self, context: int, model_parameters: int, tokens_to_train: int) -> dict[str, Any]:
        tokens = sum(length * count for length, count in self._tokens.items())
        size = self._splits[False].bytes + self._splits[True].bytes
        training = tokens * self._splits[False].bytes / max(size, 1)
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
    """Return minimum, quantiles, maximum and mean of lengths given as length → count."""
    if not counts:
        return {}
    lengths = np.array(sorted(counts))
    frequencies = np.array([counts[length] for length in lengths.tolist()])
    below = np.cumsum(frequencies)

    def quantile(share: float) -> int:
        return int(lengths[np.searchsorted(below, share * below[-1])])

    return {
        "least": int(lengths[0]),
        "median": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "most": int(lengths[-1]),
        "mean": float((lengths * frequencies).sum() / below[-1]),
    }


def _warnings(facts: Mapping[str, Any], *, cut_by_guess: bool) -> Iterator[str]:
    documents = facts["documents"]
    for sign, count in facts["damage"].items():
        if count:
            yield f"{count:,} of {documents:,} documents {SIGNS[sign]}."
    reading = facts["reading"]
    if reading.get("damaged"):
        are = "is" if reading["damaged"] == 1 else "are"
        what = number_of(reading["damaged"], "document")
        yield f"{what} {are} damaged: invalid UTF-8, NUL, or lone surrogates."
    if reading.get("bad_lines"):
        were = "is broken and was" if reading["bad_lines"] == 1 else "are broken and were"
        yield f"{number_of(reading['bad_lines'], 'line')} {were} left out."
    if facts["duplicates"] > MANY_DUPLICATES * documents:
        share = 100 * facts["duplicates"] / documents
        yield f"{share:.0f} % of the documents are exact duplicates of others; the model will memorize them first."
    yield from _answer_warnings(facts)
    yield from _validation_warnings(facts)
    yield from _size_warnings(facts, cut_by_guess=cut_by_guess)


def _answer_warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    for split, answered in facts.get("answered", {}).items():
        documents = facts[split]["documents"]
        if documents and not answered:
            yield (
                f"The {split} split has no answer, so nothing of it is learned or measured (--loss-on answers). "
                "Answers are the assistant's messages of a conversation; --loss-on all learns every token."
            )
        elif answered < documents:
            have, them = ("has", "it") if documents - answered == 1 else ("have", "them")
            yield (
                f"{documents - answered:,} of {number_of(documents, 'document')} of the {split} split {have} no "
                f"answer: nothing of {them} is learned or measured (--loss-on answers)."
            )


def _validation_warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    documents = facts["validation"]["documents"]
    if facts["overlap"]:
        what = number_of(facts["overlap"], "validation document")
        are = "is" if facts["overlap"] == 1 else "are"
        yield f"{what} {are} also in the training text: the validation loss will be too low."
    if not documents:
        yield "No documents are held out for validation."
    elif documents < FEW_VALIDATION_DOCUMENTS and facts["validation"]["bytes"] < FEW_VALIDATION_BYTES:
        are = "is" if documents == 1 else "are"
        yield f"Only {number_of(documents, 'document')} {are} held out: the validation loss will be a rough estimate."


def _size_warnings(facts: Mapping[str, Any], *, cut_by_guess: bool) -> Iterator[str]:
    median = facts["document_bytes"].get("median", 0)
    if facts["documents"] > MANY_SHORT_DOCUMENTS and 0 < median < SHORT_DOCUMENT:
        advice = " --separator file reads each file as one running text." if cut_by_guess else ""
        yield (
            f"Documents are short (median {median:,} bytes): each is learned as a complete text, and generated texts "
            f"will be as short.{advice}"
        )
    per_parameter = facts.get("tokens_per_parameter", 0)
    if 0 < per_parameter < 1:
        yield (
            f"The text has only {per_parameter:.2g} tokens for each of the {facts['model_parameters']:,} parameters: "
            "later epochs memorize it. More text or a smaller model helps."
        )
    epochs = facts.get("epochs", 0)
    if epochs > REPEATS_THAT_END:
        yield f"Training runs for {epochs:.0f} epochs; after {REPEATS_THAT_END}, repeating the text hardly helps."
    elif epochs > REPEATS_THAT_HELP:
        yield f"Training runs for {epochs:.1f} epochs; after {REPEATS_THAT_HELP}, each repeat helps less."


def _table(facts: Mapping[str, Any]) -> str:
    return "\n".join([*(f"{name:<26}{value}" for name, value in _rows(facts)), *format_preview(facts["preview"])])


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    training, validation = facts["training"], facts["validation"]
    yield (
        "documents",
        f"{facts['documents']:,} ({training['documents']:,} to train, {validation['documents']:,} to validate)",
    )
    yield "size", f"{format_bytes(facts['bytes'])}, {facts['characters']:,} characters"
    yield "document length", _format_spread(facts["document_bytes"], "bytes")
    yield "empty documents", f"{facts['empty']:,}"
    yield "duplicates", f"{facts['duplicates']:,}"
    yield "train/validation overlap", f"{facts['overlap']:,}"
    damaged = sum(facts["damage"].values()) + facts["reading"].get("damaged", 0)
    yield "signs of damage", f"{damaged:,}"
    if "tokens" in facts:
        yield "tokens", f"{facts['tokens']:,} ({facts['bytes_per_token']:.2f} bytes per token)"
        yield "tokens per document", _format_spread(facts["document_tokens"], "tokens")
    if "context_length" in facts:
        share = 100 * facts["longer_than_context"] / max(facts["documents"], 1)
        yield (
            "longer than context",
            f"{facts['longer_than_context']:,} ({share:.1f} %) exceed {facts['context_length']:,} tokens",
        )
    if "tokens_per_parameter" in facts:
        yield "tokens per parameter", f"{facts['tokens_per_parameter']:.2f}"
    if "epochs" in facts:
        yield "epochs", f"{facts['epochs']:.2f} in {facts['tokens_to_train']:,} tokens of training"


def _format_spread(spread: Mapping[str, float], unit: str) -> str:
    if not spread:
        return "-"
    return f"{spread['least']:,} … {spread['median']:,} (median) … {spread['p99']:,} (99 %) … {spread['most']:,} {unit}"
