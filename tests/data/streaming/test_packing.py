"""Tests that the sequences of a stream equal those of a dataset on disk, also when resumed anywhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import Packed, Padded
from fabella.data.sequences import SequenceDataset
from fabella.data.streaming import packing
from fabella.data.streaming.packing import SequencePacker, SignedIds, packer, signed
from fabella.data.streaming.shuffle_buffer import State
from fabella.errors import TextError
from tests.data.samples import all_ids, all_learned, split

LENGTHS = [40, 3, 1, 1, 90, 12, 7, 1, 33]
SECTIONS = [Packed(length=10, stride=5), Packed(length=8, stride=8), Packed(length=30, stride=1)]
SECTIONS += [Packed(length=30, stride=30, mask_documents=True)]
DOCUMENTS = [Padded(length=20), Padded(length=1000)]


class RepeatedDocuments:
    """Documents repeated without end."""

    def __init__(self, documents: Sequence[SignedIds]) -> None:
        self.documents, self.number = documents, 0

    def next_item(self) -> SignedIds:
        self.number += 1
        return self.documents[(self.number - 1) % len(self.documents)]

    def state(self) -> State:
        return {"number": self.number}

    def restore(self, state: State) -> None:
        self.number = state["number"]


def stream(folder: Path, section: Packed | Padded) -> tuple[SequencePacker, SequenceDataset]:
    of = split(folder / "train", LENGTHS)
    documents = np.split(all_ids(of).astype(np.uint16), np.cumsum(LENGTHS)[:-1])
    return packer(RepeatedDocuments(documents), section, 0, np.dtype("<u2")), SequenceDataset(of, section, 0)


@pytest.mark.parametrize("section", [*SECTIONS, *DOCUMENTS], ids=str)
def test_sequences_and_batches_equal_those_of_a_dataset_on_disk(section: Packed | Padded, tmp_path: Path) -> None:
    cut, dataset = stream(tmp_path, section)
    for start in range(0, len(dataset), 3):
        indices = np.arange(start, min(start + 3, len(dataset)))
        expected = dataset.batch(indices)
        batch = cut.batch([cut.next_item() for _ in indices], "here")
        np.testing.assert_array_equal(batch.tokens, expected.tokens)
        np.testing.assert_array_equal(batch.targets, expected.targets)
        assert (batch.tokens.dtype, batch.targets.dtype, batch.stream) == (np.int32, np.int32, "here")
        assert batch.arrays().keys() == expected.arrays().keys()
        np.testing.assert_array_equal(batch.arrays().get("document_starts"), expected.arrays().get("document_starts"))


@pytest.mark.parametrize("section", [*SECTIONS, *DOCUMENTS], ids=str)
def test_learned_sequences_equal_those_of_a_dataset_with_a_loss_mask(section: Packed | Padded, tmp_path: Path) -> None:
    of = split(tmp_path / "train", LENGTHS, learned=0.02)
    ids = signed(all_ids(of).astype(np.uint16), all_learned(of))
    documents = np.split(ids, np.cumsum(LENGTHS)[:-1])
    cut = packer(RepeatedDocuments(documents), section, 0, np.dtype(np.int32))
    dataset = SequenceDataset(of, section, 0)
    for index in range(len(dataset)):
        expected, batch = dataset.batch(np.array([index])), cut.batch([cut.next_item()], "")
        np.testing.assert_array_equal(batch.tokens, expected.tokens)
        np.testing.assert_array_equal(batch.targets, expected.targets)
    resumed = packer(RepeatedDocuments(documents), section, 0, np.dtype(np.int32))
    resumed.restore(cut.state())
    for _ in range(5):
        assert resumed.next_item().tolist() == cut.next_item().tolist()


def test_a_stream_without_answers_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_SKIPPED", 100)
    documents = [signed(np.arange(9, dtype=np.uint16), np.zeros(9, np.bool_))]
    for section in (Packed(length=4, stride=4), Padded(length=4)):
        with pytest.raises(TextError, match="100 sequences after each other have no token of an answer"):
            packer(RepeatedDocuments(documents), section, 0, np.dtype(np.int32)).next_item()


@given(st.sampled_from([*SECTIONS, *DOCUMENTS]), st.lists(st.integers(1, 60), min_size=1, max_size=8), st.data())
def test_resuming_at_any_sequence_changes_nothing(
    section: Packed | Padded, lengths: list[int], draw: st.DataObject
) -> None:
    documents = [np.arange(length, dtype=np.uint16) for length in [*lengths, 2]]
    uninterrupted, resumed = (packer(RepeatedDocuments(documents), section, 0, np.dtype("<u2")) for _ in range(2))
    for _ in range(draw.draw(st.integers(0, 80))):
        uninterrupted.next_item()
    resumed.restore(uninterrupted.state())
    for _ in range(20):
        assert resumed.next_item().tolist() == uninterrupted.next_item().tolist()
        assert resumed.state() == uninterrupted.state()


def test_the_rest_of_earlier_documents_is_shorter_than_a_sequence() -> None:
    documents = [np.arange(length, dtype=np.uint16) for length in (1, 2, 3, 5000, 1)]
    cut = packer(RepeatedDocuments(documents), Packed(length=100, stride=100), 0, np.dtype("<u2"))
    for _ in range(500):
        cut.next_item()
        assert len(cut.state()["rest"]) <= 4 * -(-2 * 100 // 3)
