"""Tests that a shuffle buffer returns every item once in another order, and can be resumed anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.streaming.shuffle_buffer import ShuffleBuffer, State, checksum, shuffled, varying_sizes
from fabella.errors import TextError


class Counting:
    """0, 1, 2 … with a border (None) after every ``epoch`` of them; it fails after ``until`` items."""

    def __init__(self, epoch: int, until: int = 10**9) -> None:
        self.epoch, self.until = epoch, until
        self.number, self.border = 0, False

    def next_item(self) -> int | None:
        if self.border:
            self.border = False
            return None
        self.number += 1
        self.border = self.number % self.epoch == 0
        if self.number > self.until:
            raise TextError("the source has ended")
        return self.number - 1

    def state(self) -> State:
        return {"number": self.number, "border": self.border}

    def restore(self, state: State) -> None:
        self.number, self.border = state["number"], state["border"]


def buffer(epoch: int, size: int, key: int = 1) -> ShuffleBuffer[int, int]:
    return ShuffleBuffer(Counting(epoch), shuffled(key), varying_sizes(size, key))


epochs = st.integers(1, 60)
sizes = st.integers(1, 40)


@given(epochs, sizes, st.integers(0, 2**64 - 1))
def test_each_epoch_returns_each_item_once(epoch: int, size: int, key: int) -> None:
    blocks = buffer(epoch, size, key)
    for number in range(3):
        items = [blocks.next_item() for _ in range(epoch)]
        assert sorted(items) == list(range(number * epoch, (number + 1) * epoch))


@given(epochs, sizes, st.integers(0, 150))
def test_resuming_anywhere_changes_nothing(epoch: int, size: int, at: int) -> None:
    uninterrupted = buffer(epoch, size)
    for _ in range(at):
        uninterrupted.next_item()
    resumed = buffer(epoch, size)
    resumed.restore(uninterrupted.state())
    for _ in range(50):
        assert resumed.next_item() == uninterrupted.next_item()
        assert resumed.state() == uninterrupted.state()


def test_a_returned_state_is_never_modified() -> None:
    blocks = buffer(20, 8)
    states = [blocks.state() for _ in range(30) if blocks.next_item() >= 0]
    assert len({str(state) for state in states}) == 30


def test_the_order_depends_on_the_key_and_on_the_block() -> None:
    first_buffer, same_key, other_key = (buffer(100, 100, key) for key in (1, 1, 2))
    first, second = [first_buffer.next_item() for _ in range(100)], [first_buffer.next_item() - 100 for _ in range(100)]
    assert first == [same_key.next_item() for _ in range(100)]
    assert first != second
    assert first != [other_key.next_item() for _ in range(100)]


@given(sizes, st.integers(0, 1000), st.integers(0, 2**64 - 1))
def test_a_block_is_between_half_and_all_of_its_size(max_size: int, number: int, key: int) -> None:
    assert max_size // 2 < varying_sizes(max_size, key)(number) <= max_size


def test_large_items_make_smaller_blocks() -> None:
    sizes: list[int] = []

    def arrange(items: list[int], number: int) -> list[int]:
        sizes.append(len(items))
        return items

    blocks = ShuffleBuffer(
        Counting(10**9), arrange, lambda _: 100, size_of=lambda item: 50 if item < 30 else 1, max_size=200
    )
    for _ in range(130):
        blocks.next_item()
    assert sizes[:8] == [4] * 7 + [
        100
    ]  # 28 large items, then two large ones with as many small ones as a block may have
    assert max(sizes) <= 100


def test_at_most_two_blocks_are_in_memory() -> None:
    source = Counting(10**9)
    blocks = ShuffleBuffer(source, shuffled(1), lambda _: 10)
    for num_returned in range(1, 1000):
        blocks.next_item()
        assert source.number - num_returned <= 20


def test_one_more_item_is_read_for_each_returned_one() -> None:
    source = Counting(10**9)
    blocks = ShuffleBuffer(source, shuffled(1), lambda _: 100)
    blocks.next_item()
    reads = []
    for _ in range(300):
        before = source.number
        blocks.next_item()
        reads.append(source.number - before)
    assert set(reads) == {1}


def test_the_cursor_of_a_library_is_not_compared() -> None:
    here, there = ({"parts": [{"mark": mark, "documents": 7}]} for mark in ("256", "from the beginning, 256"))
    assert checksum(here) == checksum(there)
    assert checksum(here) != checksum({"parts": [{"mark": "256", "documents": 8}]})


def test_a_block_that_differs_from_the_returned_one_is_an_error() -> None:
    blocks = ShuffleBuffer(Counting(10**9), shuffled(1), lambda _: 10)
    for _ in range(9):
        blocks.next_item()
    with pytest.raises(TextError, match="has changed since this run read it: other documents follow"):
        ShuffleBuffer(Counting(epoch=5), shuffled(1), lambda _: 10).restore(blocks.state())
