"""Report of a read: counts of damaged and skipped text, detections and remarks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fabella.storage import number_of

EXAMPLES = 5
"""Damaged places that are quoted; the others are only counted."""


@dataclass(slots=True)
class Detection:
    """Value detected for one or more files, and the number of documents read with it."""

    first: str
    files: int = 1
    documents: int = 0


@dataclass(slots=True)
class ReadReport:
    """Counts filled while documents are read; complete after the last document."""

    documents: int = 0
    """Documents returned."""
    empty: int = 0
    """Documents without a visible character, skipped."""
    damaged: int = 0
    """Documents with invalid UTF-8, NUL characters or lone surrogates."""
    replaced: int = 0
    """U+FFFD characters inserted for damage, under ``decode_errors="replace"``."""
    mended: int = 0
    """Documents that contain U+FFFD only because it was inserted."""
    skipped: int = 0
    """Damaged documents skipped, under ``decode_errors="skip"``."""
    bad_lines: int = 0
    """Lines of .jsonl and .csv, and rows of hub datasets, without valid text."""
    cut: int = 0
    """Documents longer than LONGEST_DOCUMENT, cut into several."""
    carriage_returns: int = 0
    """Line ends of Windows or classic Macintosh converted to ``\\n``."""
    examples: list[str] = field(default_factory=list[str])
    """First damaged places, at most EXAMPLES."""
    remarks: dict[str, str] = field(default_factory=dict[str, str])
    """Key → sentence; a later sentence replaces an earlier one of the same key."""
    detections: dict[tuple[str, str], Detection] = field(default_factory=dict[tuple[str, str], Detection])

    def add_detection(self, what: str, value: str, file: str) -> Detection:
        """Record that ``what`` ("separator") of ``file`` was detected to be ``value``; return its counts."""
        known = self.detections.get((what, value))
        if known is None:
            known = self.detections[what, value] = Detection(first=file)
        else:
            known.files += 1
        return known

    def add_example(self, sentence: str) -> None:
        """Keep ``sentence`` if it is one of the first EXAMPLES."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(sentence)

    def counts(self) -> dict[str, int]:
        """Return every count by its name, for ``--json`` and manifests."""
        names = ("documents", "empty", "damaged", "replaced", "skipped", "bad_lines", "cut", "carriage_returns")
        return {name: getattr(self, name) for name in names}

    def messages(self) -> Iterator[str]:
        """Yield one sentence for each detection, remark, count above 0, and example."""
        for (what, value), detection in self.detections.items():
            more = f" and {detection.files - 1:,} more" if detection.files > 1 else ""
            yield f"detected {what} of {detection.first}{more}: {value} ({number_of(detection.documents, 'document')})"
        yield from self.remarks.values()
        for count, noun, treatment in (
            (self.carriage_returns, "Windows or Macintosh line end", "converted"),
            (self.cut, "document", "longer than 1 MiB, cut into several"),
            (self.empty, "empty document", "skipped"),
            (self.damaged - self.skipped, "damaged document", f"kept with {self.replaced:,} U+FFFD inserted"),
            (self.skipped, "damaged document", "skipped"),
            (self.bad_lines, "broken line", "skipped"),
        ):
            if count:
                yield f"{number_of(count, noun)} {treatment}"
        yield from (f"for example {example}" for example in self.examples)
