"""How far preparing has come."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fabella.config.data import DataConfig, StorybookSource, Streaming
from fabella.text.source import source_files

# Text between two reports.
REPORT_BYTES = 2**20
COMPRESSED = (".gz", ".xz", ".zst", ".parquet")


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """``doing``: looking, sampling, learning the tokenizer, encoding. ``share`` of that, 0 to 1; -1 where unknown."""

    doing: str
    documents: int
    bytes: int
    seconds: float
    share: float

    @property
    def bytes_per_second(self) -> float:
        """Of text, since this phase began."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Of this phase, if it goes on as it went; -1 where unknown."""
        return self.seconds * (1 - self.share) / self.share if self.share > 0 else -1.0


@dataclass(frozen=True, slots=True)
class CorpusSize:
    """All documents or bytes of a source, where one of them is known; 0 where not."""

    documents: int = 0
    bytes: int = 0

    def share(self, documents: int, read: int) -> float:
        """How much of all that is, 0 to 1; -1 where nothing is known."""
        if self.documents:
            return min(documents / self.documents, 1.0)
        return min(read / self.bytes, 1.0) if self.bytes else -1.0


def total_of(data: DataConfig) -> CorpusSize:
    """What is known of a source before it is read."""
    if isinstance(data.source, StorybookSource) and not isinstance(data.mode, Streaming):
        return CorpusSize(documents=data.source.stories)
    files = source_files(data.source)
    if data.source.kind != "files" or any(path.suffix in COMPRESSED for path in files):
        return CorpusSize()
    size = sum(path.stat().st_size for path in files)
    return CorpusSize(bytes=min(size, data.mode.tokenizer_sample_bytes) if isinstance(data.mode, Streaming) else size)


Report = Callable[[PrepareProgress], None]


class ProgressMeter:
    """Counts what passes, and reports it every MiB of text."""

    def __init__(self, doing: str, total: CorpusSize, report: Report | None) -> None:
        self._doing, self._total, self._report = doing, total, report
        self._begun = time.monotonic()
        self._reported = 0
        self.documents = self.bytes = 0

    def add(self, documents: int, read: int) -> None:
        """Count ``documents`` more, of ``read`` bytes."""
        self.documents += documents
        self.bytes += read
        if self.bytes - self._reported >= REPORT_BYTES:
            self.tell(self._total.share(self.documents, self.bytes))

    def tell(self, share: float) -> None:
        """Report now."""
        self._reported = self.bytes
        if self._report:
            seconds = time.monotonic() - self._begun
            self._report(PrepareProgress(self._doing, self.documents, self.bytes, seconds, share))

    def watch(self, documents: Iterable[str]) -> Iterator[str]:
        """The documents, counted as they pass."""
        for text in documents:
            self.add(1, len(text))
            yield text
