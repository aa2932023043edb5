"""Tests that sources return their documents in epochs, mixed by weight, and can be resumed at any document."""

import json
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
from fabella.text.chat.template import marked_writer
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
    return RepeatedSource(source, data, rule or HashSplit(0.0), key, marked_writer())


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
        with pytest.raises(TextError, match="exceeds --max-bad-lines 3"):
            epoch(one)


def test_a_source_without_training_text_is_an_error(folder: Path) -> None:
    with pytest.raises(TextError, match=r"There is no training text in .*\. Use more text"):
        reader(folder, rule=HashSplit(1.0)).next_item()


class Numbered:
    """Source of the documents (name, 0), (name, 1) …, each followed by more ids."""

    def __init__(self, name: int, more: int) -> None:
        self.name, self.number, self.more = name, 0, more - 1

    def next_item(self) -> TokenIds:
        self.number += 1
        return np.array([self.name, self.number - 1, *[0] * self.more], dtype=np.uint16)

    def state(self) -> State:
        return {"number": self.number}

    def restore(self, state: State) -> None:
        self.number = state["number"]


def drawn(phases: list[tuple[int | None, list[float]]]) -> WeightedInterleave:
    shares = [(end, [weight / sum(weights) for weight in weights]) for end, weights in phases]
    parts = [Numbered(name, name + 1) for name in range(len(phases[0][1]))]
    return WeightedInterleave(parts, shares, units_of=len, advance_of=len)


def ids_by_source(mixture: WeightedInterleave, documents: int, sources: int) -> list[int]:
    used = [0] * sources
    for _ in range(documents):
        ids = mixture.next_item().tolist()
        used[ids[0]] += len(ids)
    return used


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5))
def test_the_shares_of_the_ids_are_the_weights(weights: list[float]) -> None:
    used = ids_by_source(drawn([(None, weights)]), 1000, len(weights))
    for of, weight in zip(used, weights, strict=True):
        assert abs(of - sum(used) * weight / sum(weights)) <= len(weights) * (len(weights) + 1)


def test_the_weights_change_at_the_end_of_a_phase() -> None:
    mixture = drawn([(600, [1.0, 0.0]), (None, [0.0, 1.0])])
    names = [mixture.next_item().tolist()[0] for _ in range(500)]
    assert names == [0] * 300 + [1] * 200


def test_each_source_is_read_in_order_without_gaps() -> None:
    mixture = drawn([(None, [1.0, 2.0])])
    read: dict[int, list[int]] = {0: [], 1: []}
    for ids in (mixture.next_item().tolist() for _ in range(500)):
        read[ids[0]].append(ids[1])
    assert read == {name: list(range(len(numbers))) for name, numbers in read.items()}


@given(st.integers(0, 300))
def test_a_mixture_resumes_anywhere(at: int) -> None:
    phases: list[tuple[int | None, list[float]]] = [(200, [0.2, 0.3, 0.5]), (400, [0.8, 0.1, 0.1]), (None, [0, 1, 1])]
    uninterrupted, resumed = drawn(phases), drawn(phases)
    for _ in range(at):
        uninterrupted.next_item()
    resumed.restore(json.loads(json.dumps(uninterrupted.state())))
    for _ in range(20):
        assert resumed.next_item().tolist() == uninterrupted.next_item().tolist()
