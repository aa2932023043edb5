"""Passes over the text: every document on its side, in the same order each time."""

from collections.abc import Iterator

from fabella.config.data import DataConfig, Holdout, Source, Streaming
from fabella.data.prepare import splitting
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.progress import CorpusSize, ProgressMeter, Report, total_of
from fabella.data.prepare.splitting import SplitDocument, SplitRule
from fabella.text.read_report import ReadReport
from fabella.text.source import describe, documents


class Corpus:
    """The text of a ``Data`` section. Making it looks at the text as far as the rule of the split needs."""

    def __init__(self, data: DataConfig, report: Report | None) -> None:
        self._data = data
        self._report = report
        self._total = total_of(data)
        self.notes = ReadReport()
        """what the newest whole pass met"""
        self.dropped = 0
        """training documents that the rule left out in the newest pass: those of the validation text"""
        self.rule: SplitRule = self._choose_rule()

    def split_documents(self, doing: str) -> Iterator[SplitDocument]:
        """One pass: all documents on their sides; those of a validation text of its own come first."""
        self.notes, self.dropped = ReadReport(), 0
        meter = ProgressMeter(doing, self._total, self._report)
        if not isinstance(self._data.validation, Holdout):
            for text in self._read(self._data.validation.source):
                yield SplitDocument(text, document_hash(text), held_out=True)
        for text in meter.watch(self._learned()):
            parts = list(self.rule.assign(text, document_hash(text)))
            self.dropped += not parts
            yield from parts
        self._total = CorpusSize(documents=meter.documents)

    def sentences(self) -> Iterator[str]:
        """All that is worth telling of the newest pass."""
        yield from self.notes.messages()
        yield from self.rule.sentences()
        if isinstance(self._data.mode, Streaming):
            most = self._data.mode.tokenizer_sample_bytes / 1e6
            yield f"validation text and tokenizer are taken from the head of the text, its first {most:,.1f} MB at most"
        if self.dropped:
            yield f"{self.dropped:,} training documents that also stand in the validation text were dropped"

    def _learned(self) -> Iterator[str]:
        """The text that is trained on: all of it, or the head of what will be streamed."""
        texts, reading = self._read(self._data.source), self._data.mode
        return take_bytes(texts, reading.tokenizer_sample_bytes) if isinstance(reading, Streaming) else texts

    def _read(self, source: Source) -> Iterator[str]:
        data = self._data
        return documents(source, invalid=data.decode_errors, max_bad_lines=data.max_bad_lines, notes=self.notes)

    def _choose_rule(self) -> SplitRule:
        validation = self._data.validation
        meter = ProgressMeter("looking", CorpusSize(), self._report)
        if isinstance(validation, Holdout):
            return splitting.holdout_rule(meter.watch(self._learned()), validation.fraction)
        return splitting.Given(
            map(document_hash, meter.watch(self._read(validation.source))), describe(validation.source)
        )


def take_bytes(documents: Iterator[str], most: int) -> Iterator[str]:
    """The first documents, until they come to ``most`` bytes."""
    read = 0
    for text in documents:
        yield text
        read += len(text.encode())
        if read >= most:
            return
