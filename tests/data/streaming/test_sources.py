"""Tests that sources return their documents in epochs, mixed by weight, and can be resumed at any document."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import DataConfig, FilesSource, Holdout
from fabella.data.dataset import TokenIds
from fabella.data.prepare.splitting import HashSplit, SplitRule
from fabella.data.streaming.shuffle_buffer import State
from fabella.data.streaming.sources import RepeatedSource, WeightedInterleave
from fabella.errors import TextError
from tests.data.samples import SEQUENCES

COUNTS = (5, 1, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, count in enumerate(COUNTS):
        texts = [f"File {number} tells of {document} foxes." for document in range(count)]
        (tmp_path / f"{number}.txt").write_text("\n".join(texts) + "\n")
    return tmp_path


def reader(folder: Path, key: int = 1, rule: SplitRule | None = None, **settings: int) -> RepeatedSource:
    source = FilesSource(paths=(str(folder),), separator="lines")
    data = DataConfig(source=source, validation=Holdout(), sequences=SEQUENCES, **settings)  # pyright: ignore[reportArgumentType]
    return RepeatedSource(source, data, rule or HashSplit(0.0), key)


def epoch(of: RepeatedSource) -> list[str]:
    texts: list[str] = []
    while (text := of.next_item()) is not None:
        texts.append(text)
    return texts


def test_each_epoch_returns_every_document_once_in_another_order(folder: Path) -> None:
    source = reader(folder)
    epochs = [epoch(source) for _ in range(6)]
    everything = sorted(line for path in folder.glob("*.txt") for line in path.read_text().splitlines())
    assert [sorted(texts) for texts in epochs] == [everything] * 6
    assert len({tuple(texts) for texts in epochs}) > 2  # six orders of three files
    resumed = reader(folder)
    assert [epoch(resumed) for _ in range(6)] == epochs


def test_held_out_documents_are_never_returned(folder: Path) -> None:
    source, everything = reader(folder, rule=HashSplit(0.5)), reader(folder)
    training, all_documents = epoch(source), epoch(everything)
    assert 0 < len(training) < len(all_documents)
    assert set(epoch(source)) == set(training)


@pytest.mark.fault("B10", cases=29)
def test_resuming_at_every_document_of_two_epochs_changes_nothing(folder: Path) -> None:
    uninterrupted = reader(folder, rule=HashSplit(0.2))
    for _ in range(29):
        resumed = reader(folder, rule=HashSplit(0.2))
        resumed.restore(uninterrupted.state())
        follower = reader(folder, rule=HashSplit(0.2))
        follower.restore(resumed.state())  # and stopped again before a document was read
        here = uninterrupted.state()
        expected = [uninterrupted.next_item() for _ in range(20)]
        assert [resumed.next_item() for _ in range(20)] == expected
        assert [follower.next_item() for _ in range(20)] == expected
        assert resumed.state() == uninterrupted.state()
        uninterrupted.restore(here)
        uninterrupted.next_item()


def swap(path: Path) -> None:
    path.write_text(path.read_text().replace("2 foxes", "2 wolves"))


def shorten(path: Path) -> None:
    path.write_text(path.read_text()[:30])


@pytest.mark.fault("B14", cases=3)
@pytest.mark.parametrize("change", [swap, shorten, Path.unlink])
def test_text_that_changed_before_the_position_is_an_error(folder: Path, change: object) -> None:
    source = reader(folder)
    while source.state()["documents"] < 6:  # the file of seven
        source.next_item()
    change(folder / "2.txt")  # pyright: ignore[reportCallIssue]
    with pytest.raises(TextError, match=r"has changed since this run read it: .* or start a new run"):
        reader(folder).restore(source.state())


@pytest.mark.fault("B14", cases=3)
@pytest.mark.parametrize("change", [swap, shorten, Path.unlink])
def test_an_epoch_that_differs_from_the_first_is_an_error(folder: Path, change: object) -> None:
    source = reader(folder)
    epoch(source)
    change(folder / "2.txt")  # pyright: ignore[reportCallIssue]
    missing = rf"Cannot read {folder}/2\.txt: No such file"
    with pytest.raises(
        TextError, match=rf"had 13 documents in its first epoch, and has .* with other content|{missing}"
    ):
        epoch(source)


def test_broken_lines_of_an_epoch_are_counted_across_a_resume(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text('{"text": "A fox."}\nbroken\n{"text": "A hen."}\n')
    source = reader(tmp_path, max_bad_lines=4)
    for _ in range(3):
        assert len(epoch(source)) == 8
    strict = reader(tmp_path, max_bad_lines=3)
    for _ in range(6):
        strict.next_item()
    resumed = reader(tmp_path, max_bad_lines=3)
    resumed.restore(strict.state())
    for one in (strict, resumed):
        with pytest.raises(TextError, match="exceeds max_bad_lines = 3"):
            epoch(one)


def test_a_source_without_training_text_is_an_error(folder: Path) -> None:
    with pytest.raises(TextError, match=r"There is no training text in .*\. Use more text"):
        reader(folder, rule=HashSplit(1.0)).next_item()


class Numbered:
    """Source of the documents (name, 0), (name, 1) …"""

    def __init__(self, name: int) -> None:
        self.name, self.number = name, 0

    def next_item(self) -> TokenIds:
        self.number += 1
        return np.array([self.name, self.number - 1], dtype=np.uint16)

    def state(self) -> State:
        return {"number": self.number}

    def restore(self, state: State) -> None:
        self.number = state["number"]


def drawn(weights: list[float], seed: int = 1) -> WeightedInterleave:
    total = sum(weights)
    return WeightedInterleave(
        [Numbered(name) for name in range(len(weights))], [weight / total for weight in weights], seed
    )


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_the_shares_are_the_weights(weights: list[float], seed: int) -> None:
    mixture, draws = drawn(weights, seed), 3000
    counts = Counter(int(mixture.next_item()[0]) for _ in range(draws))
    for name, weight in enumerate(weights):
        share = weight / sum(weights)
        # Six standard deviations of a draw by chance: once in 10⁹ examples.
        assert abs(counts[name] - draws * share) <= 6 * (draws * share * (1 - share)) ** 0.5 + 1


def test_each_source_is_read_in_order_without_gaps() -> None:
    mixture = drawn([1.0, 2.0])
    read: dict[int, list[int]] = {0: [], 1: []}
    for name, number in (mixture.next_item().tolist() for _ in range(500)):
        read[name].append(number)
    assert read == {name: list(range(len(numbers))) for name, numbers in read.items()}


@given(st.integers(0, 300))
def test_a_mixture_resumes_anywhere(at: int) -> None:
    uninterrupted, resumed = drawn([0.2, 0.3, 0.5]), drawn([0.2, 0.3, 0.5])
    for _ in range(at):
        uninterrupted.next_item()
    resumed.restore(uninterrupted.state())
    for _ in range(20):
        assert resumed.next_item().tolist() == uninterrupted.next_item().tolist()
