"""The text that a tokenizer is trained on: all of it, or an even sample of a large one, the same at every run."""

from collections.abc import Iterable, Iterator

from fabella.data.prepare.splitting import SplitDocument

# Merges learned from more text hardly differ; the trainers hold the words of all of it in memory.
MOST_BYTES = 100_000_000


class ByteBudgetSample:
    """Documents whose hash lies below a bound; whenever they exceed ``most`` bytes, the bound is halved."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._bound = 2**64
        self._kept: list[tuple[int, str, int]] = []
        self.read = self.kept = 0
        """bytes of all documents, and of those kept"""

    def add(self, document: SplitDocument) -> None:
        """Keep the document if its hash lies below the bound."""
        # The other half of the digest than the one that decides on the side.
        number, size = int.from_bytes(document.digest[8:], "big"), len(document.text.encode())
        self.read += size
        if number >= self._bound:
            return
        self._kept.append((number, document.text, size))
        self.kept += size
        while self.kept > self._most and len(self._kept) > 1:
            self._bound //= 2
            self._kept = [entry for entry in self._kept if entry[0] < self._bound]
            self.kept = sum(size for _, _, size in self._kept)

    def texts(self) -> Iterator[str]:
        """The documents kept, in their order."""
        return (text for _, text, _ in self._kept)

    def sentence(self) -> str:
        """What to tell of the sample."""
        if self.kept == self.read:
            return "the tokenizer was trained on all of the training text"
        return (
            f"the tokenizer was trained on {self.kept / 1e6:.1f} of {self.read / 1e6:.1f} MB of the training text, "
            "documents chosen by their hash"
        )


def sample_bytes(documents: Iterable[SplitDocument], most: int = MOST_BYTES) -> ByteBudgetSample:
    """A sample of the training side of ``documents``."""
    sample = ByteBudgetSample(most)
    for document in documents:
        if not document.held_out:
            sample.add(document)
    return sample
