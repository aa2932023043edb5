"""Tests that a tokenized dataset reads across shards, and that corruption is always detected."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import BPE
from fabella.data.dataset import Split, dtype_for, is_dataset, open_dataset
from fabella.data.npy import NpyWriter
from fabella.data.prepare import shard_writer
from fabella.errors import PreparedDataError
from fabella.storage import MANIFEST, dump_manifest
from tests.data.samples import all_ids, content, data, lines, prepared, split

MUTATIONS = 200


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return split(tmp_path_factory.mktemp("split") / "train", [50, 1, 130, 30, 99, 20, 61], shard_tokens=64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset of several shards."""
    folder = tmp_path_factory.mktemp("whole") / "prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer.SplitWriter.__init__, "__defaults__", (3000,))
        prepared(folder, tokenizer=BPE(vocab_size=400))
    return folder


# ---------------------------------------------------------------- reading


@given(start=st.integers(0, 391), length=st.integers(0, 391))
def test_reading_joins_shards(of: Split, start: int, length: int) -> None:
    stop = min(start + length, of.tokens)
    np.testing.assert_array_equal(of.read(start, stop), all_ids(of)[start:stop])


@given(starts=st.lists(st.integers(0, 391 - 70), min_size=1, max_size=20), length=st.integers(1, 70))
def test_gather_equals_reading_each_row(of: Split, starts: list[int], length: int) -> None:
    rows = of.gather(np.array(starts), length)
    assert rows.shape == (len(starts), length)
    for row, start in zip(rows, starts, strict=True):
        np.testing.assert_array_equal(row, of.read(start, start + length))


def test_every_document_ends_with_eos(of: Split) -> None:
    assert of.offsets.tolist() == [0, 50, 51, 181, 211, 310, 330, 391]
    ids = all_ids(of)
    assert (ids[of.offsets[1:] - 1] == 0).all()
    assert np.count_nonzero(ids == 0) == of.documents == 7
    assert of.document_bytes.tolist() == [100, 2, 260, 60, 198, 40, 122]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_use_the_smallest_dtype(vocab_size: int, dtype: str, tmp_path: Path) -> None:
    assert dtype_for(vocab_size).name == dtype
    made = split(tmp_path / "train", [20], vocab_size=vocab_size)
    assert made.read(0, 20).dtype == dtype
    assert all_ids(made).max() < vocab_size


@pytest.mark.fault("B2", cases=3)
def test_an_id_outside_of_the_vocabulary_is_named_with_its_offset(tmp_path: Path) -> None:
    made = split(tmp_path / "train", [150, 100], vocab_size=300, shard_tokens=100)
    shards = [{"file": f"shard-0000{n}.npy", "tokens": tokens, "crc32": []} for n, tokens in enumerate((100, 100, 50))]
    record = {"documents": 2, "tokens": 250, "bytes": 0, "shards": shards}
    ids = all_ids(made)
    largest = int(ids.max())
    position = int(np.argmax(ids))
    smaller = Split(tmp_path / "train", shard_writer.SplitRecord.model_validate(record), largest)
    shard, offset = divmod(position, 100)
    words = rf"train/shard-0000{shard}\.npy, offset {offset}: id {largest} is outside of the vocabulary of {largest}\."
    with pytest.raises(PreparedDataError, match=words):
        smaller.read(0, 250)
    with pytest.raises(PreparedDataError, match=words):
        smaller.gather(np.array([position - 3]), 6)
    assert len(smaller.read(0, position)) == position


# ---------------------------------------------------------------- opening


def test_a_prepared_dataset_can_be_opened(whole: Path) -> None:
    opened = open_dataset(whole, full=True)
    assert opened.path == whole
    assert opened.tokenizer.vocab_size == 400
    assert opened.train.name == "train"
    assert opened.train.tokens == opened.manifest["train"]["tokens"] > 6000
    assert len(opened.manifest["train"]["shards"]) > 2
    assert opened.validation.documents + opened.train.documents == 60
    assert is_dataset(whole)


def test_ids_are_those_of_the_documents(whole: Path) -> None:
    opened = open_dataset(whole)
    for side in (opened.train, opened.validation):
        ids, offsets = all_ids(side), side.offsets
        for start, stop, size in zip(offsets[:-1], offsets[1:], side.document_bytes, strict=True):
            text = opened.tokenizer.decode(ids[start:stop].tolist())
            assert len(text.encode()) == size
            assert opened.tokenizer.encode(text).tolist() == ids[start : stop - 1].tolist()
            assert ids[stop - 1] == opened.tokenizer.eos_id


def test_the_fingerprint_depends_on_the_content(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").fingerprint == open_dataset(whole).fingerprint
    other = prepared(tmp_path / "other", tokenizer=BPE(vocab_size=401))
    assert other.fingerprint != open_dataset(whole).fingerprint


@pytest.mark.fault("B14", cases=1)
def test_text_changed_by_one_byte_is_another_dataset(tmp_path: Path) -> None:
    texts = [f"story number {number}" * 20 for number in range(20)]
    before = prepared(tmp_path / "before", data(lines(tmp_path / "a.txt", texts)))
    texts[-1] += "!"
    after = prepared(tmp_path / "after", data(lines(tmp_path / "a.txt", texts)))
    assert before.fingerprint != after.fingerprint


# ---------------------------------------------------------------- damage


def flip(path: Path, source: random.Random) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
    path.write_bytes(damaged)


def truncate(path: Path, source: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: source.randrange(path.stat().st_size)])


def lengthen(path: Path, source: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(source.randrange(1, 9)))


def remove(path: Path, source: random.Random) -> None:
    path.unlink()


def retype(path: Path, source: random.Random) -> None:
    """Return another dtype of the same bytes, or other bytes of the same length for other files."""
    raw = path.read_bytes()
    kinds = [b"'<u2'", b"'<i8'"]
    for kind, other in zip(kinds, (b"'<i2'", b"'<u8'"), strict=True):
        raw = raw.replace(kind, other)
    path.write_bytes(raw if raw != path.read_bytes() else bytes(len(raw)))


@pytest.mark.fault("B2", cases=MUTATIONS)
def test_every_corruption_is_found_and_named(whole: Path, tmp_path: Path) -> None:
    source = random.Random(5)
    names = sorted(content(whole))
    for number in range(MUTATIONS):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        name = source.choice(names)
        damage = source.choice([flip, flip, truncate, lengthen, remove, retype])
        damage(folder / name, source)
        with pytest.raises(PreparedDataError) as caught:
            open_dataset(folder, full=True)
        assert Path(name).name in caught.value.message, (damage.__name__, caught.value.message)
        shutil.rmtree(folder)


@pytest.mark.fault("B2", cases=50)
def test_a_flipped_bit_of_a_shard_is_found_at_its_offset(whole: Path, tmp_path: Path) -> None:
    source = random.Random(6)
    opened = open_dataset(whole)
    for number in range(50):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        shard = source.choice(opened.manifest["train"]["shards"])
        path = folder / "train" / shard["file"]
        damaged = bytearray(path.read_bytes())
        damaged[source.randrange(128, len(damaged))] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        words = rf"train/{shard['file']}, offset 0 to {shard['tokens'] - 1}, is corrupt: its content does not match"
        with pytest.raises(PreparedDataError, match=words):
            open_dataset(folder, full=True)
        shutil.rmtree(folder)


@pytest.mark.fault("B2", cases=30)
def test_missing_files_and_other_sizes_are_found_at_once(whole: Path, tmp_path: Path) -> None:
    """At every opening, without reading the files."""
    source = random.Random(7)
    names = sorted(set(content(whole)) - {MANIFEST})
    for number in range(30):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        name = source.choice(names)
        source.choice([truncate, lengthen, remove])(folder / name, source)
        with pytest.raises(PreparedDataError, match=Path(name).name):
            open_dataset(folder)
        shutil.rmtree(folder)


def test_another_tokenizer_is_noticed(whole: Path, tmp_path: Path) -> None:
    """Swapped together with its manifest: sizes and hashes agree, but the fingerprint does not."""
    other = prepared(tmp_path / "other", tokenizer=BPE(vocab_size=401))
    manifest = dict(other.manifest)
    shutil.copytree(whole, tmp_path / "mixed")
    for name in ("tokenizer.json", "fabella.json"):
        shutil.copy(tmp_path / "other" / "tokenizer" / name, tmp_path / "mixed" / "tokenizer" / name)
    mixed = open_dataset(whole).manifest | {}
    mixed["files"] = {**mixed["files"], **{n: e for n, e in manifest["files"].items() if n.startswith("tokenizer/")}}
    (tmp_path / "mixed" / MANIFEST).write_bytes(rendered(mixed))
    with pytest.raises(PreparedDataError, match="tokenizer is not the tokenizer of the ids"):
        open_dataset(tmp_path / "mixed")


def rendered(manifest: dict[str, object]) -> bytes:
    return dump_manifest(manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "run"}, "contains run of format 1; expected prepared data of format 1"),
        ({"format": 2}, "contains prepared data of format 2; expected prepared data of format 1"),
        ({"train": None}, "does not describe a prepared dataset"),
        ({"train": {"documents": 0}}, "does not describe a prepared dataset"),
        ({"tokenizer": {}}, "does not describe a prepared dataset"),
    ],
)
def test_a_manifest_of_another_kind_or_format_is_refused(
    whole: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    manifest = open_dataset(whole).manifest | change
    (tmp_path / "copy" / MANIFEST).write_bytes(rendered(manifest))
    with pytest.raises(PreparedDataError, match=words):
        open_dataset(tmp_path / "copy")


def test_offsets_that_do_not_rise_are_corrupt(tmp_path: Path) -> None:
    made = split(tmp_path / "train", [30, 40])
    path = tmp_path / "train" / "offsets.npy"
    path.unlink()
    with NpyWriter(path, np.dtype("<i8")) as writer:
        writer.append(np.array([0, 80, 70]))
    with pytest.raises(PreparedDataError, match=r"train/offsets\.npy does not rise from 0 to 70"):
        _ = made.offsets


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("nothing", r"There is no prepared dataset .*place\. Give a directory"),
        ("file", r"There is no prepared dataset .*place\. Give a directory"),
        ("empty folder", r"place is a directory without manifest\.json, not a prepared dataset\. Give a directory"),
        ("run", r"place is a run, not a prepared dataset\. Give a directory"),
        ("datasets", r"place contains prepared datasets\. Give one of them: .*place/one, .*place/two\."),
    ],
)
def test_other_directories_are_not_datasets(what: str, problem: str, whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.touch()
    elif what == "empty folder":
        place.mkdir()
    elif what == "run":
        place.mkdir()
        for name in ("config.yaml", MANIFEST):
            (place / name).touch()
    elif what == "datasets":
        for name in ("one", "two"):
            shutil.copytree(whole, place / name)
    assert not is_dataset(place)
    with pytest.raises(PreparedDataError, match=problem):
        open_dataset(place)


def test_a_corrupt_dataset_is_still_recognized_as_one(whole: Path, tmp_path: Path) -> None:
    """So that a command reports the corruption instead of reading the directory as text."""
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / MANIFEST).write_text("{")
    assert is_dataset(tmp_path / "copy")
