"""Resumable shuffle buffer: the next block is filled while the current one is returned item by item.

    upstream ──▶ block being filled ──▶ arrange: shuffle or tokenize ──▶ current block, one item at a time

The state is the upstream state at the start of the current block, and the number of items returned: on resume, the
block is read again instead of being stored, so that a state is small. A checksum of the upstream state at the end of
the block shows whether the same items were read again.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from fabella.data.permutation import permute
from fabella.errors import TextError
from fabella.splitmix64 import splitmix64

State = dict[str, Any]
"""JSON values from which a part of a stream resumes; never modified after it was returned."""

T = TypeVar("T")
U = TypeVar("U")
Item = TypeVar("Item", covariant=True)


class ResumableStream(Protocol[Item]):
    """Part of a stream: endless items; None marks the border between two epochs."""

    def next_item(self) -> Item | None:
        """Return the next item."""
        ...

    def state(self) -> State:
        """Return the current state."""
        ...

    def restore(self, state: State) -> None:
        """Resume from ``state``. Raises TextError if the text has changed since."""
        ...


class ShuffleBuffer(Generic[T, U]):
    """Items of ``arrange(block, number of the block)`` for each block, one at a time, without end."""

    def __init__(
        self,
        upstream: ResumableStream[T],
        arrange: Callable[[list[T], int], Sequence[U]],
        num_items: Callable[[int], int],
        *,
        size_of: Callable[[T], int] = lambda item: 0,
        max_size: int = 0,
    ) -> None:
        """A block has ``num_items(number)`` items; fewer at the end of an epoch or with ``max_size`` in total."""
        self._upstream, self._arrange, self._num_items = upstream, arrange, num_items
        self._size_of, self._max_size = size_of, max_size
        self._start = upstream.state()
        self._number, self._returned, self._end = 0, 0, 0
        self._block: Sequence[U] = ()
        self._begin_filling(0)

    def next_item(self) -> U:
        """Return the next item, and read one item more for the next block."""
        while self._returned == len(self._block):
            self._next_block()
        item = self._block[self._returned]
        self._returned += 1
        if not self._full:
            self._fill()
        return item

    def state(self) -> State:
        """Return the start of the current block, and the number of items returned of it."""
        return {"block": self._number, "given": self._returned, "end": self._end, "source": self._start}

    def restore(self, state: State) -> None:
        """Read the block again. Raises TextError if it has changed."""
        self._upstream.restore(state["source"])
        self._start, self._number, self._returned, self._block = state["source"], state["block"], 0, ()
        self._end = state["end"]
        self._begin_filling(state["block"])
        if state["given"]:
            self._next_block()
            if self._end != state["end"]:
                raise changed_error("other documents follow its position")
            self._returned = state["given"]

    def _next_block(self) -> None:
        """Make the filled block the current one, and start filling the next."""
        while not self._full:
            self._fill()
        self._block, self._returned = self._arrange(self._filling, self._filling_number), 0
        self._start, self._number = self._filling_start, self._filling_number
        self._begin_filling(self._number + 1)
        self._end = checksum(self._filling_start)

    def _begin_filling(self, number: int) -> None:
        self._filling: list[T] = []
        self._filling_start, self._filling_number = self._upstream.state(), number
        self._size, self._full = 0, False

    def _fill(self) -> None:
        item = self._upstream.next_item()
        if item is None:
            self._full = bool(self._filling)  # a border right after a full block ends no block
            return
        self._filling.append(item)
        self._size += self._size_of(item)
        complete = len(self._filling) >= self._num_items(self._filling_number)
        self._full = complete or bool(self._max_size and self._size >= self._max_size)


def shuffled(key: int) -> Callable[[list[T], int], list[T]]:
    """Return an ``arrange`` that permutes each block; the order depends on (key, number)."""

    def arrange(items: list[T], number: int) -> list[T]:
        order = permute(np.arange(len(items)), len(items), splitmix64(key + splitmix64(number)))
        return [items[index] for index in order.tolist()]

    return arrange


def varying_sizes(max_items: int, key: int) -> Callable[[int], int]:
    """Return sizes from half of ``max_items`` to ``max_items``, so that each epoch has other block borders."""

    def num_items(number: int) -> int:
        return max_items // 2 + 1 + splitmix64(key + splitmix64(~number)) % (max_items - max_items // 2)

    return num_items


def checksum(state: State) -> int:
    """Return the CRC-32 of a state without its cursors: a library may write the same position in several ways."""
    return zlib.crc32(json.dumps(_without_cursors(state), sort_keys=True).encode())


def _without_cursors(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_cursors(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_cursors(item) for key, item in value.items() if key != "mark"}


def changed_error(how: str) -> TextError:
    """Return the error for a text that has changed since it was read before."""
    return TextError(
        f"The text has changed since this run read it: {how}.",
        hint="Restore the original text, or start a new run.",
    )
