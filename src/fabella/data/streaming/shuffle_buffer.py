"""Items in blocks: the next block is filled while this one is given out, so that nothing waits for a whole block.

    upstream ──▶ block being filled ──▶ arranged as a whole: shuffled, encoded ──▶ block being given, one at a time

The state is where the block that is given began, and how much of it is given: it is read again, never saved. So a
state is small; and a checksum of where the block ended tells whether the same was read again.
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
"""JSON values: what a part of a stream needs to go on; never changed once it was given."""

T = TypeVar("T")
U = TypeVar("U")
Given = TypeVar("Given", covariant=True)


class ResumableStream(Protocol[Given]):
    """A part of a stream. It gives items without end; None is the border between two epochs."""

    def next_item(self) -> Given | None:
        """The next item."""
        ...

    def state(self) -> State:
        """Where it stands."""
        ...

    def restore(self, state: State) -> None:
        """Stand where ``state`` says. Raises TextError where what was read before is not there any more."""
        ...


class ShuffleBuffer(Generic[T, U]):
    """What ``arrange(block, its number)`` makes of each block, one at a time, without end."""

    def __init__(
        self,
        upstream: ResumableStream[T],
        arrange: Callable[[list[T], int], Sequence[U]],
        items: Callable[[int], int],
        *,
        weigh: Callable[[T], int] = lambda item: 0,
        most: int = 0,
    ) -> None:
        """``items(number)``: how many make a block; fewer where they come to ``most`` by ``weigh``, or at a border."""
        self._upstream, self._arrange, self._items = upstream, arrange, items
        self._weigh, self._most = weigh, most
        self._start = upstream.state()
        self._number, self._used, self._end = 0, 0, 0
        self._given: Sequence[U] = ()
        self._begin_filling(0)

    def next_item(self) -> U:
        """The next item; one more is read for the next block."""
        while self._used == len(self._given):
            self._turn()
        item = self._given[self._used]
        self._used += 1
        if not self._full:
            self._fill()
        return item

    def state(self) -> State:
        """Where the block that is given began, and how much of it is given."""
        return {"block": self._number, "given": self._used, "end": self._end, "source": self._start}

    def restore(self, state: State) -> None:
        """Read the block again. Raises TextError where it is another."""
        self._upstream.restore(state["source"])
        self._start, self._number, self._used, self._given = state["source"], state["block"], 0, ()
        self._end = state["end"]
        self._begin_filling(state["block"])
        if state["given"]:
            self._turn()
            if self._end != state["end"]:
                raise changed("other documents came where it stood")
            self._used = state["given"]

    def _turn(self) -> None:
        """Give out what was filled, and begin to fill the next."""
        while not self._full:
            self._fill()
        self._given, self._used = self._arrange(self._filling, self._filling_number), 0
        self._start, self._number = self._filling_start, self._filling_number
        self._begin_filling(self._number + 1)
        self._end = checksum(self._filling_start)

    def _begin_filling(self, number: int) -> None:
        self._filling: list[T] = []
        self._filling_start, self._filling_number = self._upstream.state(), number
        self._weight, self._full = 0, False

    def _fill(self) -> None:
        item = self._upstream.next_item()
        if item is None:
            self._full = bool(self._filling)  # a border right behind a full block ends nothing
            return
        self._filling.append(item)
        self._weight += self._weigh(item)
        enough = len(self._filling) >= self._items(self._filling_number)
        self._full = enough or bool(self._most and self._weight >= self._most)


def shuffled(key: int) -> Callable[[list[T], int], list[T]]:
    """An ``arrange`` that puts each block in an order of its own, decided by (key, number)."""

    def arrange(items: list[T], number: int) -> list[T]:
        order = permute(np.arange(len(items)), len(items), splitmix64(key + splitmix64(number)))
        return [items[place] for place in order.tolist()]

    return arrange


def varying_sizes(most: int, key: int) -> Callable[[int], int]:
    """Sizes between half of ``most`` and all of it: each epoch cuts its blocks elsewhere, for other neighbours."""

    def items(number: int) -> int:
        return most // 2 + 1 + splitmix64(key + splitmix64(~number)) % (most - most // 2)

    return items


def checksum(state: State) -> int:
    """CRC-32 of a state, but for its marks: a library may spell the same place in several ways."""
    return zlib.crc32(json.dumps(_unmarked(state), sort_keys=True).encode())


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _unmarked(item) for key, item in value.items() if key != "mark"}


def changed(how: str) -> TextError:
    """The error for text that is not what it was when it was read before."""
    return TextError(
        f"The text is not what it was when this run read it before: {how}.",
        hint="Bring the original text back, or begin a new run.",
    )
