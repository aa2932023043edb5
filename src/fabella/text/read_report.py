"""What reading met on its way: counts, guesses and remarks, for whoever wants to know what became of the text."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fabella.storage import number_of

EXAMPLES = 5
"""places of damage that are named; the rest is counted"""


@dataclass(slots=True)
class Detection:
    """Something guessed for one or more files, and how many documents came of it."""

    first: str
    files: int = 1
    documents: int = 0


@dataclass(slots=True)
class ReadReport:
    """Filled by ``documents`` while it is read; complete once it has been read to its end."""

    documents: int = 0
    """documents handed out"""
    empty: int = 0
    """documents without a visible character, left out"""
    damaged: int = 0
    """documents with bytes that are no UTF-8, NUL characters or lone surrogates"""
    replaced: int = 0
    """U+FFFD put in for damage, under ``invalid="replace"``"""
    mended: int = 0
    """documents that hold U+FFFD only since then"""
    skipped: int = 0
    """damaged documents left out, under ``invalid="skip"``"""
    bad_lines: int = 0
    """lines of .jsonl and .csv, and rows of data sets, that hold no text as they should"""
    cut: int = 0
    """documents longer than LONGEST_DOCUMENT, cut into several"""
    carriage_returns: int = 0
    """line ends of Windows or old Macintosh made into plain ones"""
    examples: list[str] = field(default_factory=list[str])
    """the first places of damage"""
    remarks: dict[str, str] = field(default_factory=dict[str, str])
    """key → sentence; a later sentence of the same key takes the place of the earlier"""
    guesses: dict[tuple[str, str], Detection] = field(default_factory=dict[tuple[str, str], Detection])

    def guess(self, what: str, value: str, file: str) -> Detection:
        """State that ``what`` ("separator") of ``file`` was guessed to be ``value``."""
        known = self.guesses.get((what, value))
        if known is None:
            known = self.guesses[what, value] = Detection(first=file)
        else:
            known.files += 1
        return known

    def example(self, sentence: str) -> None:
        """Keep one of the first few cases, to be told whole."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(sentence)

    def counts(self) -> dict[str, int]:
        """Every count by its name, for ``--json`` and manifests."""
        names = ("documents", "empty", "damaged", "replaced", "skipped", "bad_lines", "cut", "carriage_returns")
        return {name: getattr(self, name) for name in names}

    def messages(self) -> Iterator[str]:
        """All that is worth telling, one sentence each: guesses, remarks, counts that are not zero, first examples."""
        for (what, value), guess in self.guesses.items():
            more = f" and {guess.files - 1:,} more" if guess.files > 1 else ""
            yield f"{what} of {guess.first}{more} guessed: {value} ({number_of(guess.documents, 'document')})"
        yield from self.remarks.values()
        for count, noun, became in (
            (self.carriage_returns, "line end", "of Windows made into plain ones"),
            (self.cut, "document", "longer than 1 MiB, cut into several"),
            (self.empty, "empty document", "left out"),
            (self.damaged - self.skipped, "damaged document", f"kept, {self.replaced:,} U+FFFD put in"),
            (self.skipped, "damaged document", "left out"),
            (self.bad_lines, "broken line", "left out"),
        ):
            if count:
                yield f"{number_of(count, noun)} {became}"
        yield from (f"for example {example}" for example in self.examples)
