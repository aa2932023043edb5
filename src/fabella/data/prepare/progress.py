"""Progress of the preparation of a dataset."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fabella.config.data import DataConfig, StorybookSource
from fabella.text.compression import CODECS
from fabella.text.source import source_files

REPORT_BYTES = 2**20
"""Bytes of text between two reports."""
COMPRESSED = (*CODECS, ".zip", ".parquet")


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """Progress of one phase: inspecting, sampling, training the tokenizer, encoding.

    ``share`` is the finished part of the phase, 0 to 1; -1 if unknown.
    """

    phase: str
    documents: int
    bytes: int
    seconds: float
    share: float

    @property
    def bytes_per_second(self) -> float:
        """Text per second since the phase began."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Estimated seconds to the end of the phase; -1 if unknown."""
        return self.seconds * (1 - self.share) / self.share if self.share > 0 else -1.0


@dataclass(frozen=True, slots=True)
class CorpusSize:
    """Number of documents or bytes of a source; 0 means unknown."""

    documents: int = 0
    bytes: int = 0

    def share(self, documents: int, read: int) -> float:
        """Return the share of the source that was read, 0 to 1; -1 if unknown."""
        if self.documents:
            return min(documents / self.documents, 1.0)
        return min(read / self.bytes, 1.0) if self.bytes else -1.0


def corpus_size(data: DataConfig) -> CorpusSize:
    """Return the size of the training source, as far as it is known before it is read."""
    if isinstance(data.source, StorybookSource) and not data.mode.prepared_bytes:
        return CorpusSize(documents=data.source.stories)
    files = source_files(data.source)
    if data.source.kind != "files" or any(path.suffix in COMPRESSED for path in files):
        return CorpusSize()
    size = sum(path.stat().st_size for path in files)
    return CorpusSize(bytes=min(size, data.mode.prepared_bytes or size))


Report = Callable[[PrepareProgress], None]


class ProgressMeter:
    """Counter of documents that reports every MiB of text."""

    def __init__(self, phase: str, total: CorpusSize, report: Report | None) -> None:
        self._phase, self._total, self._report = phase, total, report
        self._started = time.monotonic()
        self._reported = 0
        self.documents = self.bytes = 0

    def add(self, documents: int, read: int) -> None:
        """Count ``documents`` more, with ``read`` bytes."""
        self.documents += documents
        self.bytes += read
        if self.bytes - self._reported >= REPORT_BYTES:
            self.report(self._total.share(self.documents, self.bytes))

    def report(self, share: float) -> None:
        """Report now."""
        self._reported = self.bytes
        if self._report:
            seconds = time.monotonic() - self._started
            self._report(PrepareProgress(self._phase, self.documents, self.bytes, seconds, share))

    def watch(self, documents: Iterable[str]) -> Iterator[str]:
        """Yield the documents and count them."""
        for text in documents:
            self.documents += 1
            self.bytes += len(text)
            if self.bytes - self._reported >= REPORT_BYTES:
                self.report(self._total.share(self.documents, self.bytes))
            yield text
