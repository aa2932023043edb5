"""Passes over the text: every document on its side, in the same order each time."""

from collections.abc import Iterator

from fabella.config.data import Data, Held, Source, Streamed
from fabella.data.prepare import splitting
from fabella.data.prepare.holdout import digest
from fabella.data.prepare.progress import Meter, Report, Total, total_of
from fabella.data.prepare.splitting import Placed, Rule
from fabella.text.read_report import Notes
from fabella.text.source import describe, documents


class Passes:
    """The text of a ``Data`` section. Making it looks at the text as far as the rule of the split needs."""

    def __init__(self, data: Data, report: Report | None) -> None:
        self._data = data
        self._report = report
        self._total = total_of(data)
        self.notes = Notes()
        """what the newest whole pass met"""
        self.dropped = 0
        """training documents that the rule left out in the newest pass: those of the validation text"""
        self.rule: Rule = self._choose_rule()

    def placed(self, doing: str) -> Iterator[Placed]:
        """One pass: all documents on their sides; those of a validation text of its own come first."""
        self.notes, self.dropped = Notes(), 0
        meter = Meter(doing, self._total, self._report)
        if not isinstance(self._data.validation, Held):
            for text in self._read(self._data.validation.source):
                yield Placed(text, digest(text), held_out=True)
        for text in meter.watch(self._learned()):
            parts = list(self.rule.place(text, digest(text)))
            self.dropped += not parts
            yield from parts
        self._total = Total(documents=meter.documents)

    def sentences(self) -> Iterator[str]:
        """All that is worth telling of the newest pass."""
        yield from self.notes.sentences()
        yield from self.rule.sentences()
        if isinstance(self._data.reading, Streamed):
            most = self._data.reading.head_bytes / 1e6
            yield f"validation text and tokenizer are taken from the head of the text, its first {most:,.1f} MB at most"
        if self.dropped:
            yield f"{self.dropped:,} training documents that also stand in the validation text were dropped"

    def _learned(self) -> Iterator[str]:
        """The text that is trained on: all of it, or the head of what will be streamed."""
        texts, reading = self._read(self._data.source), self._data.reading
        return head(texts, reading.head_bytes) if isinstance(reading, Streamed) else texts

    def _read(self, source: Source) -> Iterator[str]:
        data = self._data
        return documents(source, invalid=data.invalid_text, max_bad_lines=data.max_bad_lines, notes=self.notes)

    def _choose_rule(self) -> Rule:
        validation = self._data.validation
        meter = Meter("looking", Total(), self._report)
        if isinstance(validation, Held):
            return splitting.held_share(meter.watch(self._learned()), validation.fraction)
        return splitting.Given(map(digest, meter.watch(self._read(validation.source))), describe(validation.source))


def head(documents: Iterator[str], most: int) -> Iterator[str]:
    """The first documents, until they come to ``most`` bytes."""
    read = 0
    for text in documents:
        yield text
        read += len(text.encode())
        if read >= most:
            return
