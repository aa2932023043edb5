"""Corpus: passes over the text that yield every document with its split, always in the same order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from fabella.config.data import DataConfig, Holdout, Source, ValidationSource
from fabella.data.prepare import splitting
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.progress import CorpusSize, ProgressMeter, Report, corpus_size
from fabella.data.prepare.splitting import SplitDocument, SplitRule
from fabella.storage import number_of
from fabella.text.chat.template import ConversationWriter, marked_writer
from fabella.text.mixture import Leaf, flatten_mixture, interleave
from fabella.text.read_report import ReadReport
from fabella.text.similarity.duplicates import EXACT, NEAR, DuplicateFinder, Duplicates
from fabella.text.similarity.overlap import Overlap, OverlapFinder
from fabella.text.source import describe, documents, validation_source

MAX_NAMED = 5
"""Duplicates named in a message."""
MAX_KEPT_CHARACTERS = 16 * 2**20
"""Characters of text that are kept after the split rule is chosen, so that the first pass does not read them again."""


class KeptTexts:
    """Texts of which the first ones are read twice: once by ``first``, then, with all the others, by ``again``."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self.kept: deque[str] = deque()
        self._characters = 0

    @property
    def are_complete(self) -> bool:
        """Whether ``again`` yields every text: not more than MAX_KEPT_CHARACTERS have been read."""
        return self._characters <= MAX_KEPT_CHARACTERS

    def first(self) -> Iterator[str]:
        """Yield texts and keep them."""
        for text in self._texts:
            self._characters += len(text)
            if self.are_complete:
                self.kept.append(text)
            else:
                self.kept.clear()
            yield text

    def again(self) -> Iterator[str]:
        """Yield the texts that ``first`` has yielded, then those that follow them."""
        while self.kept:
            yield self.kept.popleft()
        yield from self._texts


class Corpus:
    """Text of a data config. The constructor reads as much of it as the split rule needs."""

    def __init__(self, data: DataConfig, report: Report | None, writer: ConversationWriter | None = None) -> None:
        """``writer`` writes the conversations, with marks."""
        self._data, self.writer = data, writer or marked_writer()
        self._report = report
        self._total = corpus_size(data)
        self.notes = ReadReport()
        """Report of the latest complete pass."""
        self.dropped = 0
        """Training documents dropped in the latest pass because they are also in the validation source."""
        self.duplicates = self._find_duplicates()
        """Which training documents are left out; None if all are kept."""
        self.read_already: KeptTexts | None = None
        """Text that the first pass need not read again"""
        self.rule: SplitRule = self._choose_rule()

    def split_documents(self, phase: str) -> Iterator[SplitDocument]:
        """Make one pass: yield all documents with their splits, those of a separate validation source first."""
        read_already, self.read_already = self.read_already, None
        self.notes, self.dropped = self.notes if read_already else ReadReport(), 0
        meter = ProgressMeter(phase, self._total, self._report)
        if not isinstance(self._data.validation, Holdout):
            for text in self._read(self._data.validation.source):
                yield SplitDocument(text, document_hash(text), held_out=True)
        for part, texts in enumerate([read_already.again()] if read_already else self._training_parts()):
            for text in meter.watch(texts):
                kept = False
                for piece in self.rule.assign(text, document_hash(text)):
                    kept = True
                    yield replace(piece, part=part) if part else piece
                self.dropped += not kept
        self._total = CorpusSize(documents=meter.documents)

    def messages(self) -> Iterator[str]:
        """Yield one sentence per noteworthy fact of the latest pass."""
        yield from self.notes.messages()
        yield from self.rule.messages()
        if limit := self._data.mode.prepared_bytes:
            first = f"the first {limit / 1e6:,.1f} MB of the text at most"
            yield f"the validation split, and a tokenizer that is trained, come from {first}"
        if self.duplicates is not None:
            yield from describe_duplicates(self.duplicates)
        if self.dropped:
            yield f"{self.dropped:,} training documents that are also in the validation source were dropped"

    @property
    def sources(self) -> list[Leaf]:
        """Training sources in the order of a pass: the parts of a mixture; none for the head of a stream."""
        return [] if self._data.mode.prepared_bytes else [leaf for _, leaf in flatten_mixture(self._data.source)]

    def _training_parts(self) -> list[Iterator[str]]:
        """Return the texts of each training source, or the head of a stream."""
        head, limit = self._read(self._data.source), self._data.mode.prepared_bytes
        if limit:
            return [take_bytes(head, limit)]
        return [self._kept(self._read(source), part) for part, source in enumerate(self.sources)]

    def _kept(self, texts: Iterator[str], part: int) -> Iterator[str]:
        """Yield the documents of a part that are no duplicates."""
        if self.duplicates is None:
            return texts
        first = self._part_starts[part]
        kinds = self.duplicates.kinds[first:]
        return (text for number, text in enumerate(texts) if number >= len(kinds) or not kinds[number])

    def _find_duplicates(self) -> Duplicates | None:
        """Compare all training documents in one pass, if duplicates are to be left out."""
        self.duplicates = None
        duplicates = self._data.duplicates
        if duplicates.kind == "keep":
            return None
        finder = DuplicateFinder(duplicates.similarity if duplicates.kind == "near" else 0.0)
        meter = ProgressMeter("finding duplicates", self._total, self._report)
        self._part_starts: list[int] = []
        for texts in self._training_parts():
            self._part_starts.append(len(finder))
            for text in meter.watch(texts):
                finder.add(text, document_hash(text))
        return finder.find()

    def _read(self, source: Source) -> Iterator[str]:
        data = self._data
        return documents(
            source,
            decode_errors=data.decode_errors,
            max_bad_lines=data.max_bad_lines,
            notes=self.notes,
            writer=self.writer,
        )

    def _choose_rule(self) -> SplitRule:
        validation = self._data.validation
        meter = ProgressMeter("inspecting", CorpusSize(), self._report)
        if isinstance(validation, Holdout):
            parts = self._training_parts()
            if len(parts) > 1:
                texts = (text for _, text in interleave(parts, [1.0] * len(parts), lambda text: 1))
                return splitting.holdout_rule(meter.watch(texts), validation.fraction)
            read = KeptTexts(parts[0])
            rule = splitting.holdout_rule(meter.watch(read.first()), validation.fraction)
            self.read_already = read if read.are_complete else None
            return rule
        return splitting.SourceSplit(
            map(document_hash, meter.watch(self._read(validation.source))), describe(validation.source)
        )


def describe_duplicates(found: Duplicates) -> Iterator[str]:
    """Yield a sentence about the documents that are left out, with the numbers of the first, from 1."""
    exact, near = found.count(EXACT), found.count(NEAR)
    removed = np.flatnonzero(found.kinds)[:MAX_NAMED]
    named = "; ".join(
        f"document {number + 1:,} {'equals' if found.kinds[number] == EXACT else 'is like'} document "
        f"{found.originals[number] + 1:,}"
        for number in removed.tolist()
    )
    example = f": {named}{' …' if exact + near > len(removed) else ''}" if named else ""
    yield (
        f"left out {exact:,} exact and {near:,} near-duplicates of earlier documents, of "
        f"{number_of(len(found.kinds), 'document')}{example}"
    )


def default_validation(source: Source, fraction: float = 0.01) -> Holdout | ValidationSource:
    """Return the validation files of a source where their names say so; else hold out ``fraction`` of its documents."""
    separate = validation_source(source)
    return ValidationSource(source=separate) if separate else Holdout(fraction=fraction)


def take_bytes(documents: Iterator[str], max_bytes: int) -> Iterator[str]:
    """Yield the first documents, until they reach ``max_bytes`` bytes."""
    read = 0
    for text in documents:
        yield text
        read += len(text.encode())
        if read >= max_bytes:
            return


def measure_overlap(corpus: Corpus, others: Sequence[Source], *, validation: bool = True) -> list[Overlap]:
    """Return the overlap of the training text with the validation text and with each of ``others``, in two passes."""

    def held_out() -> Iterator[str]:
        return (document.text for document in corpus.split_documents("reading") if document.held_out)

    reads: list[tuple[str, Callable[[], Iterator[str]]]] = [("the validation text", held_out)] if validation else []
    reads += [(describe(source), partial(documents, source, decode_errors="replace")) for source in others]
    finders = [(OverlapFinder(name, read()), read) for name, read in reads]
    for document in corpus.split_documents("comparing"):
        if not document.held_out:
            for finder, _ in finders:
                finder.add(document.text)
    return [finder.result(read) for finder, read in finders]
