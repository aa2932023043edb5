"""Tests of the training sequences of a split."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fabella import models
from fabella.config.data import Packed, Padded
from fabella.data.batches import Batch, document_starts
from fabella.data.dataset import PartRecord, Split, SplitRecord
from fabella.data.sequences import ReshuffledSequences, SequenceDataset
from fabella.errors import DataError
from fabella.models import IGNORE
from tests.data.samples import all_ids, all_learned, split

END = 0
lengths = st.lists(st.integers(1, 70), min_size=2, max_size=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> "Folders":
    return Folders(tmp_path_factory.mktemp("splits"))


class Folders:
    """Return a new directory at every call."""

    def __init__(self, base: Path) -> None:
        self.base, self.count = base, 0

    def new(self) -> Path:
        self.count += 1
        return self.base / str(self.count)


def every(dataset: SequenceDataset) -> Batch:
    return dataset.batch(np.arange(len(dataset)))


@given(lengths=lengths, length=st.integers(1, 40), stride=st.integers(1, 40), shard=st.integers(10, 80))
def test_packed_sequences_are_cut_at_the_stride(
    folders: Folders, lengths: list[int], length: int, stride: int, shard: int
) -> None:
    stride = min(stride, length)
    of = split(folders.new(), lengths, shard_tokens=shard)
    ids = all_ids(of)
    if of.tokens <= length:
        with pytest.raises(DataError):
            SequenceDataset(of, Packed(length=length, stride=stride), END)
        return
    dataset = SequenceDataset(of, Packed(length=length, stride=stride), END)
    starts = [start for start in range(0, of.tokens, stride) if start + length + 1 <= of.tokens]
    assert len(dataset) == len(starts)
    batch = every(dataset)
    np.testing.assert_array_equal(batch.tokens, [ids[s : s + length] for s in starts])
    np.testing.assert_array_equal(batch.targets, [ids[s + 1 : s + length + 1] for s in starts])


@given(lengths=lengths, length=st.integers(1, 40), shard=st.integers(10, 80))
def test_padded_sequences_are_documents_after_eos(
    folders: Folders, lengths: list[int], length: int, shard: int
) -> None:
    of = split(folders.new(), lengths, shard_tokens=shard)
    bounds = zip(of.offsets[:-1], of.offsets[1:], strict=True)
    documents = [all_ids(of)[a:b].tolist() for a, b in bounds if b - a > 1]
    if not documents:
        with pytest.raises(DataError, match=r"No document of the .* split has a token to predict"):
            SequenceDataset(of, Padded(length=length), END)
        return
    batch = every(SequenceDataset(of, Padded(length=length), END))
    longest = max(min(len(document), length) for document in documents)
    assert batch.tokens.shape == (len(documents), longest)
    for row, document in enumerate(documents):
        num_targets = min(len(document), length)
        rest = longest - num_targets
        assert batch.tokens[row].tolist() == [END] + document[: num_targets - 1] + [END] * rest
        assert batch.targets[row].tolist() == document[:num_targets] + [IGNORE] * rest


def test_eos_is_predicted_unless_the_document_was_cut(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [5, 9])
    batch = every(SequenceDataset(of, Padded(length=6), END))
    assert batch.targets[0].tolist()[:5][-1] == END
    assert END not in batch.targets[1]
    assert batch.num_targets == 5 + 6


def test_a_batch_is_padded_to_its_longest_sequence(tmp_path: Path) -> None:
    dataset = SequenceDataset(split(tmp_path / "a", [5, 9, 3]), Padded(length=100), END)
    assert dataset.batch(np.array([0, 2])).tokens.shape == (2, 5)


@given(indices=st.lists(st.integers(0, 8), min_size=1, max_size=20))
def test_sequences_are_returned_as_requested_whatever_the_batch(folders: Folders, indices: list[int]) -> None:
    for section in (Packed(length=7, stride=5), Padded(length=7)):
        dataset = SequenceDataset(split(folders.new(), [11, 2, 8, 30, 4, 6, 9, 3, 12]), section, END)
        joint = dataset.batch(np.array(indices))
        for row, index in enumerate(indices):
            single = dataset.batch(np.array([index]))
            np.testing.assert_array_equal(joint.tokens[row, : single.tokens.shape[1]], single.tokens[0])
            np.testing.assert_array_equal(joint.targets[row, : single.targets.shape[1]], single.targets[0])


@pytest.mark.parametrize(("tokens", "count"), [(185_517_137, 724_675), (20_613_016, 80_518)])
def test_the_number_of_sequences_equals_the_published_one(
    tokens: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpt2-92m: sequences of 512 with stride 256."""
    record = SplitRecord.model_construct(documents=1, tokens=tokens, bytes=0, shards=())

    def without_files(self: Split, of: SplitRecord) -> None:
        self.tokens, self.documents = of.tokens, of.documents

    monkeypatch.setattr(Split, "__init__", without_files)
    of = Split(record)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert len(SequenceDataset(of, Packed(length=512, stride=256), END)) == count


def test_too_little_text_is_an_error_with_the_needed_size(tmp_path: Path) -> None:
    of = split(tmp_path / "train", [60, 40])
    expected_message = (
        r"The train split is too small: 100 tokens; a sequence of 512 needs 513\. "
        r"Use 6 times more text, or shorter sequences: data\.sequences\.length=99 data\.sequences\.stride=99"
    )
    with pytest.raises(DataError, match=expected_message):
        SequenceDataset(of, Packed(length=512, stride=256), END)


def test_arrays_are_ids_that_torch_can_take(tmp_path: Path) -> None:
    for section in (Packed(length=7, stride=7), Padded(length=7)):
        batch = every(SequenceDataset(split(tmp_path / section.kind, [20, 30], vocab_size=70_000), section, END))
        for array in (batch.tokens, batch.targets):
            assert array.dtype == np.int32
            assert array.flags.c_contiguous
            assert array.flags.writeable


def test_padding_is_ignored_by_the_same_number_as_in_the_models() -> None:
    assert IGNORE == models.IGNORE


@given(lengths=lengths, learned=st.sampled_from([0.0, 0.05, 0.5, 1.0]), shard=st.integers(10, 80))
@pytest.mark.parametrize("section", [Packed(length=7, stride=5), Packed(length=6, stride=6), Padded(length=7)], ids=str)
def test_a_loss_mask_leaves_out_targets_and_sequences_without_any(
    section: Packed | Padded, folders: Folders, lengths: list[int], learned: float, shard: int
) -> None:
    masked = split(folders.new(), lengths, shard_tokens=shard, learned=learned)
    all_of_it = split(folders.new(), lengths, shard_tokens=shard)
    try:
        expected = every(SequenceDataset(all_of_it, section, END))
    except DataError:
        with pytest.raises(DataError):
            SequenceDataset(masked, section, END)
        return
    mask = all_learned(masked)
    position = _positions(all_of_it, section, expected.targets.shape)
    targets = np.where((position >= 0) & mask[position], expected.targets, IGNORE)
    kept = (targets != IGNORE).any(axis=1)
    if not kept.any():
        with pytest.raises(DataError, match=r"No sequence of the .* split has a token of an answer"):
            SequenceDataset(masked, section, END)
        return
    dataset = SequenceDataset(masked, section, END)
    batch = every(dataset)
    width = batch.targets.shape[1]
    np.testing.assert_array_equal(batch.targets, targets[kept][:, :width])
    np.testing.assert_array_equal(batch.tokens, expected.tokens[kept][:, :width])
    assert dataset.parts[0].sequences == kept.sum()
    assert dataset.parts[0].tokens_per_sequence == pytest.approx((targets[kept] != IGNORE).sum(axis=1).mean())


def _positions(of: Split, section: Packed | Padded, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the position in the split of each target, -1 for padding."""
    if isinstance(section, Packed):
        return np.arange(shape[0])[:, None] * section.stride + 1 + np.arange(section.length)
    documents = np.flatnonzero(np.diff(of.offsets) > 1)
    positions = of.offsets[documents][:, None] + np.arange(shape[1])
    return np.where(positions < of.offsets[documents + 1][:, None], positions, -1)


def test_a_start_token_precedes_the_targets_of_a_padded_document(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [5, 2, 9])
    bos_id = int(of.read(0, 1)[0])
    batch = SequenceDataset(of, Padded(length=100), END, bos_id=bos_id).batch(np.array([0]))
    ids = of.read(0, 5).tolist()
    assert batch.tokens[0].tolist() == ids[:-1]
    assert batch.targets[0].tolist() == ids[1:]
    assert len(SequenceDataset(of, Padded(length=100), END, bos_id=bos_id)) == 2, "a document of start and end only"


def pieces(stream: list[int]) -> tuple[list[int], list[tuple[int, ...]], list[int]]:
    """Split ids after each END into the rest of a document, whole documents, and the beginning of one."""
    documents: list[list[int]] = [[]]
    for token in stream:
        documents[-1].append(token)
        if token == END:
            documents.append([])
    return documents[0], [tuple(document) for document in documents[1:-1]], documents[-1]


@given(lengths=lengths, length=st.integers(1, 20), epoch=st.integers(0, 3), shard=st.integers(10, 80))
def test_an_epoch_of_reshuffled_sequences_is_a_cut_of_all_documents_in_some_order(
    folders: Folders, lengths: list[int], length: int, epoch: int, shard: int
) -> None:
    of = split(folders.new(), lengths, shard_tokens=shard)
    config = Packed(length=length, stride=length, reshuffle=True)
    if of.tokens <= length:
        with pytest.raises(DataError):
            ReshuffledSequences(of, config, (), 1)
        return
    dataset = ReshuffledSequences(of, config, (), 1)
    assert len(dataset) == len(SequenceDataset(of, config, END))
    batch = dataset.batch(epoch * len(dataset) + np.arange(len(dataset)))
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    np.testing.assert_array_equal(batch.tokens[1:, 0], batch.targets[:-1, -1])
    left = [tuple(of.read(a, b).tolist()) for a, b in pairwise(of.offsets.tolist())]
    rest, whole, beginning = pieces(batch.tokens.ravel().tolist())
    for document in whole:
        left.remove(document)
    assert not rest or any(document[len(document) - len(rest) :] == tuple(rest) for document in left)
    assert not beginning or any(document[: len(beginning)] == tuple(beginning) for document in left)


def test_reshuffled_sequences_have_other_neighbors_and_cuts_in_each_epoch_and_seed(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [30] * 12)
    config = Packed(length=16, stride=16, reshuffle=True)
    epochs = {
        tuple(dataset.batch(np.arange(epoch * len(dataset), (epoch + 1) * len(dataset))).tokens.ravel().tolist())
        for dataset in (ReshuffledSequences(of, config, (), seed) for seed in (1, 2, 3))
        for epoch in range(4)
    }
    assert len(epochs) == 12


def test_one_long_document_is_cut_elsewhere_in_each_epoch(tmp_path: Path) -> None:
    dataset = ReshuffledSequences(split(tmp_path / "a", [500]), Packed(length=16, stride=16, reshuffle=True), (), 1)
    firsts = {tuple(dataset.batch(np.array([epoch * len(dataset)])).tokens[0].tolist()) for epoch in range(5)}
    assert len(firsts) == 5


def test_a_reshuffled_sequence_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    of, config = split(tmp_path / "a", [11, 40, 8, 30, 4]), Packed(length=9, stride=9, reshuffle=True)
    indices = np.array([0, 29, 5, 31, 14, 5])  # of several epochs
    joint = ReshuffledSequences(of, config, (), 1).batch(indices)
    for row, index in enumerate(indices):
        single = ReshuffledSequences(of, config, (), 1).batch(np.array([index]))
        np.testing.assert_array_equal(joint.tokens[row], single.tokens[0])


def test_reshuffled_sequences_of_a_mixture_stay_within_their_part(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [20, 30, 25, 45])
    parts = [
        PartRecord(source="", documents=2, tokens=tokens, bytes=2 * tokens, validation_documents=1)
        for tokens in (50, 70)
    ]
    config = Packed(length=8, stride=8, reshuffle=True)
    dataset = ReshuffledSequences(of, config, parts, 1)
    assert dataset.parts == SequenceDataset(of, config, END, parts).parts
    first, second = (set(all_ids(of)[a:b].tolist()) - {END} for a, b in ((0, 50), (50, 120)))
    numbers = np.arange(3 * len(dataset))
    of_first = numbers % len(dataset) < dataset.parts[0].sequences
    assert set(dataset.batch(numbers[of_first]).tokens.ravel().tolist()) - {END} <= first
    assert set(dataset.batch(numbers[~of_first]).tokens.ravel().tolist()) - {END} <= second


# ---------------------------------------------------------------- masks


@given(lengths=lengths, stride=st.integers(1, 90), reshuffle=st.booleans())
def test_a_masked_document_of_a_packed_sequence_is_its_padded_sequence(
    folders: Folders, lengths: list[int], stride: int, reshuffle: bool
) -> None:
    """From the EOS id before it, which predicts its first id, to its last id, which predicts its EOS id."""
    of, stride = split(folders.new(), [1, *lengths, 90]), 90 if reshuffle else stride
    config = Packed(length=90, stride=stride, reshuffle=reshuffle, mask_documents=True)
    dataset = ReshuffledSequences(of, config, (), 1, first_id=END) if reshuffle else SequenceDataset(of, config, END)
    bounds = pairwise(of.offsets.tolist())
    documents = {(END, *of.read(a, b).tolist()) for a, b in bounds}
    for tokens, targets, starts in zip(*dataset.batch(np.arange(len(dataset))).arrays().values(), strict=True):
        borders = [0, *np.flatnonzero(tokens == END).tolist(), len(tokens)]
        assert starts.tolist() == [start for start, end in pairwise(borders) for _ in range(start, end)]
        for start, end in pairwise(borders[1:-1]):
            assert (*tokens[start:end].tolist(), targets[end - 1].item()) in documents


def test_the_bos_id_starts_a_masked_document_where_the_tokenizer_has_one(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [5, 4, 6])
    bos_id = int(of.read(7, 8)[0])
    config = Packed(length=14, stride=14, mask_documents=True)
    batch = SequenceDataset(of, config, END, bos_id=bos_id).batch(np.array([0]))
    expected = np.maximum.accumulate(np.where(batch.tokens == bos_id, np.arange(14), 0), axis=1)
    assert batch.document_starts is not None
    np.testing.assert_array_equal(batch.document_starts, expected)
    assert expected[0, 7] == 7


def test_without_masks_a_batch_has_no_document_starts(tmp_path: Path) -> None:
    of = split(tmp_path / "a", [20, 30])
    for config in (Packed(length=14, stride=14), Padded(length=14)):
        assert SequenceDataset(of, config, END).batch(np.array([0])).document_starts is None


def test_padding_has_document_starts() -> None:
    ids = np.array([[3, 0, 2]], np.int32)
    batch = Batch(ids, ids, document_starts(ids, END)).padded(2, 5)
    assert batch.document_starts is not None
    assert batch.document_starts.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_reshuffle_needs_sequences_without_overlap() -> None:
    with pytest.raises(ValidationError, match="reshuffle needs stride = length = 8"):
        Packed(length=8, stride=4, reshuffle=True)
