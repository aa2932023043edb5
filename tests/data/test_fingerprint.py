"""Tests that the fingerprint of a dataset changes exactly when the token ids could change."""

import os
import shutil
from pathlib import Path

import pytest

from fabella.config.data import (
    BPE,
    Bytes,
    DataConfig,
    Holdout,
    MixtureSource,
    Packed,
    Padded,
    Pretrained,
    StorybookSource,
    Streaming,
    ValidationSource,
    WeightedSource,
)
from fabella.data import fingerprint
from fabella.data.fingerprint import dataset_fingerprint, file_stats, require_unchanged, sampled_hashes
from fabella.errors import TextError
from tests.data.samples import data, lines
from tests.tokenizers.samples import trained

BYTES = Bytes()


def test_each_setting_that_determines_the_ids_changes_the_fingerprint() -> None:
    base = data()
    every = [
        dataset_fingerprint(base, BYTES),
        dataset_fingerprint(base, BPE(vocab_size=300)),
        dataset_fingerprint(base, BPE(vocab_size=301)),
        dataset_fingerprint(data(StorybookSource(stories=61)), BYTES),
        dataset_fingerprint(data(StorybookSource(stories=60, seed=2)), BYTES),
        dataset_fingerprint(data(validation=Holdout(fraction=0.3)), BYTES),
        dataset_fingerprint(data(validation=ValidationSource(source=StorybookSource(seed=3))), BYTES),
        dataset_fingerprint(base.model_copy(update={"decode_errors": "replace"}), BYTES),
        dataset_fingerprint(data(MixtureSource(parts=(WeightedSource(weight=1, source=StorybookSource()),))), BYTES),
    ]
    assert len(set(every)) == len(every)


def test_the_sequence_config_does_not_change_the_fingerprint() -> None:
    """Sequences are cut when the dataset is read."""
    one, other = data(sequences=Packed(length=8, stride=4)), data(sequences=Padded(length=100))
    assert dataset_fingerprint(one, BYTES) == dataset_fingerprint(other, BYTES)


def test_the_fingerprint_depends_on_content_and_not_on_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = data(lines(tmp_path / "a" / "text.txt", ["one", "two"]))
    there = data(lines(tmp_path / "b" / "text.txt", ["one", "two"]))
    assert dataset_fingerprint(here, BYTES) == dataset_fingerprint(there, BYTES)
    lines(tmp_path / "b" / "text.txt", ["one", "too"])
    assert dataset_fingerprint(here, BYTES) != dataset_fingerprint(there, BYTES)


def test_modification_times_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "text.txt", ["one", "two"]))
    before = dataset_fingerprint(of, BYTES)
    os.utime(tmp_path / "text.txt", (0, 0))
    assert dataset_fingerprint(of, BYTES) == before


@pytest.mark.fault("B14", cases=2)
def test_one_more_byte_in_either_source_changes_the_fingerprint(tmp_path: Path) -> None:
    text, validation = lines(tmp_path / "a.txt", ["one"]), lines(tmp_path / "b.txt", ["two"])
    of = data(text, ValidationSource(source=validation))
    seen = {dataset_fingerprint(of, BYTES)}
    for name in ("a.txt", "b.txt"):
        with (tmp_path / name).open("a") as file:
            file.write("!")
        seen.add(dataset_fingerprint(of, BYTES))
    assert len(seen) == 3


def test_the_content_of_a_tokenizer_changes_the_fingerprint(tmp_path: Path) -> None:
    trained("bpe", 400).save(tmp_path / "tokenizer")
    section = Pretrained(source=str(tmp_path / "tokenizer"))
    before = dataset_fingerprint(data(), section)
    by_file = Pretrained(source=str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert dataset_fingerprint(data(), by_file) != before, "what was asked for is another section"
    shutil.rmtree(tmp_path / "tokenizer")
    trained("bpe", 500).save(tmp_path / "tokenizer")
    assert dataset_fingerprint(data(), section) != before


def test_a_file_changed_during_preparation_is_noticed(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "text.txt", ["one", "two"]))
    before = file_stats(of)
    require_unchanged(before, of)
    lines(tmp_path / "text.txt", ["one", "two", "three"])
    with pytest.raises(TextError, match=r"text\.txt was changed during preparation\. Run the command again"):
        require_unchanged(before, of)


def test_a_file_deleted_during_preparation_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in "ab":
        lines(tmp_path / "texts" / f"{name}.txt", ["one"])
    of = data().model_copy(
        update={"source": lines(tmp_path / "c.txt", ["x"]).model_copy(update={"paths": (str(tmp_path / "texts"),)})}
    )
    before = file_stats(of)
    (tmp_path / "texts" / "b.txt").unlink()
    with pytest.raises(TextError, match="Files were added or deleted"):
        require_unchanged(before, of)
    shutil.rmtree(tmp_path / "texts")
    with pytest.raises(TextError):
        require_unchanged(before, of)


def test_a_config_without_files_has_no_file_stats() -> None:
    assert file_stats(data()) == []
    assert isinstance(data(), DataConfig)


# ---------------------------------------------------------------- streams


def streaming(of: DataConfig, **settings: int) -> DataConfig:
    return of.model_copy(update={"mode": Streaming(**settings)})  # pyright: ignore[reportArgumentType]


def test_only_settings_of_the_head_change_the_fingerprint_of_a_stream() -> None:
    base = data()
    one, other = (
        streaming(base),
        streaming(base, document_shuffle_buffer=7, sequence_shuffle_buffer=7, prefetch_batches=7),
    )
    assert dataset_fingerprint(one, BYTES) == dataset_fingerprint(other, BYTES)
    assert dataset_fingerprint(one, BYTES) != dataset_fingerprint(base, BYTES)
    assert dataset_fingerprint(one, BYTES) != dataset_fingerprint(streaming(base, tokenizer_sample_bytes=1000), BYTES)


@pytest.mark.fault("B14", cases=6)
@pytest.mark.parametrize("at", [0, 1000, 65_535, 2_000_000, 3_999_999, 4_000_000])
def test_a_changed_byte_of_a_streamed_file_is_noticed(at: int, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"fox " * 1_000_000)
    before = sampled_hashes([path])
    raw = bytearray(path.read_bytes())
    raw[at : at + 1] = b"!"
    path.write_bytes(raw)
    assert sampled_hashes([path]) != before


def test_large_and_many_files_are_hashed_in_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", 10)
    monkeypatch.setattr(fingerprint, "MAX_BLOCKS_PER_FILE", 8)
    monkeypatch.setattr(fingerprint, "MAX_BLOCKS", 32)
    files = [tmp_path / f"{number}.txt" for number in range(8)]
    for file in files:
        file.write_bytes(bytes(range(100)) * 10)
    single_hash, hash_among_files = sampled_hashes(files[:1]), sampled_hashes(files)
    assert len(set(hash_among_files)) == 1
    assert single_hash[0] != hash_among_files[0]  # eight blocks of one file, four of each of eight
    for place, noticed in ((0, True), (999, True), (20, False)):
        raw = bytearray(bytes(range(100)) * 10)
        raw[place] = 255
        files[0].write_bytes(raw)
        assert (sampled_hashes(files[:1]) != single_hash) == noticed
