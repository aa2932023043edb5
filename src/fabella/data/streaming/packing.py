"""Windows cut from a stream of documents, as ``windows.py`` cuts them from prepared data, and batches of them."""

import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch
from fabella.data.dataset import TokenIds
from fabella.data.streaming.shuffle_buffer import ResumableStream, State
from fabella.models import IGNORE


class SequencePacker(ResumableStream[TokenIds], Protocol):
    """A stream of windows."""

    def batch(self, windows: Sequence[TokenIds], stream: str) -> Batch:
        """The batch of some of its windows; ``stream`` is where the stream stands after them."""
        ...


def cutter(
    documents: ResumableStream[TokenIds], section: Packed | Padded, end: int, dtype: "np.dtype[Any]"
) -> SequencePacker:
    """The windows that ``section`` describes; ``end`` is the tokenizer's end id, which also pads."""
    return (
        PackDocuments(documents, section, dtype)
        if isinstance(section, Packed)
        else PadDocuments(documents, section.length, end)
    )


class PackDocuments:
    """All documents in one line, cut every ``stride`` ids into windows of ``length + 1``."""

    def __init__(self, documents: ResumableStream[TokenIds], section: Packed, dtype: "np.dtype[Any]") -> None:
        self._documents, self._length, self._stride = documents, section.length, section.stride
        self._rest: TokenIds = np.empty(0, dtype=dtype)
        self._begin()

    def _begin(self) -> None:
        """The next document to come; ``_rest`` is what earlier ones left, too short for a window."""
        self._source, self._line, self._cut = self._documents.state(), self._rest, 0

    def next_item(self) -> TokenIds:
        """The next window, [length + 1]."""
        while (start := self._cut * self._stride) + self._length + 1 > len(self._line):
            self._rest = self._line[start:].copy()
            self._begin()
            self._join()
        self._cut += 1
        return self._line[start : start + self._length + 1].copy()

    def _join(self) -> None:
        document = self._documents.next_item()
        assert document is not None, "documents have no end"
        self._line = np.concatenate([self._rest, document])

    def state(self) -> State:
        """Where the newest document began, what was left before it, and how many windows were cut since."""
        rest = base64.b64encode(self._rest.tobytes()).decode()
        return {"cut": self._cut, "rest": rest, "source": self._source}

    def restore(self, state: State) -> None:
        """Read the newest document again."""
        self._documents.restore(state["source"])
        self._rest = np.frombuffer(base64.b64decode(state["rest"]), dtype=self._rest.dtype)
        self._begin()
        if state["cut"]:
            self._join()
            self._cut = state["cut"]

    def batch(self, windows: Sequence[TokenIds], stream: str) -> Batch:
        """[B length]; the targets are one further."""
        ids = np.stack(windows).astype(np.int32)
        return Batch(tokens=ids[:, :-1].copy(), targets=ids[:, 1:].copy(), stream=stream)


class PadDocuments:
    """One document a window, cut at ``length``."""

    def __init__(self, documents: ResumableStream[TokenIds], length: int, end: int) -> None:
        self._documents, self._length, self._end = documents, length, end

    def next_item(self) -> TokenIds:
        """The next document that is more than its end, [≤ length]."""
        while True:
            document = self._documents.next_item()
            assert document is not None, "documents have no end"
            if len(document) > 1:
                return document[: self._length].copy()

    def state(self) -> State:
        """That of the documents."""
        return self._documents.state()

    def restore(self, state: State) -> None:
        """The documents where they stood."""
        self._documents.restore(state)

    def batch(self, windows: Sequence[TokenIds], stream: str) -> Batch:
        """[B longest]; what is read first is the end, as before every document in a line."""
        targets = _padded(windows, IGNORE)
        tokens = np.full_like(targets, self._end)
        tokens[:, 1:] = _padded(windows, self._end)[:, :-1]
        tokens[targets == IGNORE] = self._end
        return Batch(tokens=tokens, targets=targets, stream=stream)


def _padded(windows: Sequence[TokenIds], filling: int) -> NDArray[np.int32]:
    rows = np.full((len(windows), max(map(len, windows))), filling, dtype=np.int32)
    for row, window in zip(rows, windows, strict=True):
        row[: len(window)] = window
    return rows
