"""Report of a read: counts of damaged and skipped text, detections and remarks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fabella.storage import format_bytes, number_of

EXAMPLES = 5
"""Damaged places that are quoted; the others are only counted."""


@dataclass(slots=True)
class Detection:
    """Value detected for one or more files, and the number of documents read with it."""

    first: str
    files: int = 1
    documents: int = 0
    hint: str = ""
    """What to do if it is wrong; empty if nothing can be."""


@dataclass(slots=True)
class Files:
    """The first of some files, and how many there are."""

    first: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.first} and {self.number - 1:,} more" if self.number > 1 else self.first


@dataclass(slots=True)
class Boilerplate:
    """Bytes of one or more files that are not their text."""

    first: str
    files: int = 0
    bytes: int = 0


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

    encodings: dict[tuple[str, str], Files] = field(default_factory=dict[tuple[str, str], "Files"])
    """(encoding other than UTF-8, how it is known) → files."""
    encoding_hints: dict[str, str] = field(default_factory=dict[str, str])
    """File that is not UTF-8 → a sentence with its likely encoding."""
    boilerplate: dict[str, Boilerplate] = field(default_factory=dict[str, "Boilerplate"])
    """What was left out around the text of files."""
    separators: dict[str, tuple[str, int, int]] = field(default_factory=dict[str, tuple[str, int, int]])
    """Separator given by the user → (first file without it, files without it, files with it)."""

    def add_detection(self, what: str, value: str, file: str, hint: str = "") -> Detection:
        """Record that ``what`` ("separator") of ``file`` was detected to be ``value``; return its counts."""
        known = self.detections.get((what, value))
        if known is None:
            known = self.detections[what, value] = Detection(first=file, hint=hint)
        else:
            known.files += 1
        return known

    def add_boilerplate(self, what: str, file: str, size: int) -> None:
        """Record that ``size`` bytes of ``file`` were left out: ``what`` is "front matter", for example."""
        known = self.boilerplate.setdefault(what, Boilerplate(first=file))
        known.files += 1
        known.bytes += size

    def add_encoding(self, encoding: str, how: str, file: str) -> None:
        """Record the encoding of ``file``; ``how`` is "detected" or "byte order mark"."""
        self.encodings.setdefault((encoding, how), Files(first=file)).number += 1

    def encoding_hint(self, location: str) -> str:
        """Return the sentence about the encoding of the file of a location; empty without one."""
        return next((hint for file, hint in self.encoding_hints.items() if location.startswith(file)), "")

    def count_separator(self, separator: str, file: str, *, used: bool) -> None:
        """Record whether a separator that the user gave occurs in ``file``."""
        first, without, found = self.separators.get(separator, ("", 0, 0))
        self.separators[separator] = (first or ("" if used else file), without + (not used), found + used)

    def is_cut_by_guess(self) -> bool:
        """Return whether a detected separator cut a file into documents."""
        return any(what == "separator" and value != "file" for what, value in self.detections)

    def add_example(self, sentence: str) -> None:
        """Keep ``sentence`` if it is one of the first EXAMPLES."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(sentence)

    def warnings(self) -> Iterator[str]:
        """Yield one sentence for each option without an effect on the text."""
        for separator, (first, without, found) in self.separators.items():
            if not found:
                others = f" and {without - 1:,} more" if without > 1 else ""
                yield (
                    f"The separator {_format_value(separator)} does not occur in {first}{others}: each file is one "
                    "document. --separator auto detects the separator."
                )

    def counts(self) -> dict[str, int]:
        """Return every count by its name, for ``--json`` and manifests."""
        names = ("documents", "empty", "damaged", "replaced", "skipped", "bad_lines", "cut", "carriage_returns")
        return {name: getattr(self, name) for name in names}

    def messages(self) -> Iterator[str]:
        """Yield one sentence for each detection, remark, count above 0, and example."""
        for (what, value), detection in self.detections.items():
            more = f" and {detection.files - 1:,} more" if detection.files > 1 else ""
            name = _format_value(value)
            hint = f"; {detection.hint}" if detection.hint else ""
            count = f" ({number_of(detection.documents, 'document')})" if detection.documents else ""
            yield f"detected {what} of {detection.first}{more}: {name}{count}{hint}"
        for (encoding, how), files in self.encodings.items():
            if encoding == "utf-8":
                yield f"{how} of {files} dropped"
            else:
                hint = "; --encoding sets another one" if how == "detected" else ""
                yield f"encoding of {files}: {encoding} ({how}){hint}"
        yield from self.remarks.values()
        for file, hint in self.encoding_hints.items():
            yield f"{file} is not UTF-8. {hint}".rstrip()
        for what, left in self.boilerplate.items():
            more = f" and {left.files - 1:,} more" if left.files > 1 else ""
            size = format_bytes(left.bytes)
            yield f"{what} of {left.first}{more} left out ({size}); --boilerplate keep reads it as text"
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


def _format_value(value: str) -> str:
    r"""Return a separator with its line ends as ``\n``, and ``file`` with what it means."""
    if value == "file":
        return "file, each file is one running text"
    return f"lines of {value.strip()}" if value.startswith("\n") and value.endswith("\n") else repr(value)[1:-1]
