"""Shuffle buffer: every item once, in another order, resumable anywhere."""

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
        given_out = [blocks.next_item() for _ in range(epoch)]
        assert sorted(given_out) == list(range(number * epoch, (number + 1) * epoch))


@given(epochs, sizes, st.integers(0, 150))
def test_resuming_anywhere_changes_nothing(epoch: int, size: int, at: int) -> None:
    straight = buffer(epoch, size)
    for _ in range(at):
        straight.next_item()
    again = buffer(epoch, size)
    again.restore(straight.state())
    for _ in range(50):
        assert again.next_item() == straight.next_item()
        assert again.state() == straight.state()


def test_a_returned_state_is_never_modified() -> None:
    blocks = buffer(20, 8)
    states = [blocks.state() for _ in range(30) if blocks.next_item() >= 0]
    assert len({str(state) for state in states}) == 30


def test_the_order_depends_on_the_key_and_on_the_block() -> None:
    one, same, other = (buffer(100, 100, key) for key in (1, 1, 2))
    first, second = [one.next_item() for _ in range(100)], [one.next_item() - 100 for _ in range(100)]
    assert first == [same.next_item() for _ in range(100)]
    assert first != second
    assert first != [other.next_item() for _ in range(100)]


@given(sizes, st.integers(0, 1000), st.integers(0, 2**64 - 1))
def test_a_block_is_between_half_and_all_of_its_size(most: int, number: int, key: int) -> None:
    assert most // 2 < varying_sizes(most, key)(number) <= most


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
    ]  # 28 heavy ones, then two heavy ones with as many light ones as a block may hold
    assert max(sizes) <= 100


def test_at_most_two_blocks_are_in_memory() -> None:
    source = Counting(10**9)
    blocks = ShuffleBuffer(source, shuffled(1), lambda _: 10)
    for given_out in range(1, 1000):
        blocks.next_item()
        assert source.number - given_out <= 20


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
