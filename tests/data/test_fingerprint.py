"""Whether prepared data is still what its text would give."""

import os
import shutil
from pathlib import Path

import pytest

from fabella.config.data import (
    BPE,
    Bytes,
    Chained,
    Data,
    Documents,
    Given,
    Held,
    Mixture,
    Part,
    Pretrained,
    Storybook,
    Streamed,
)
from fabella.data import fingerprint
from fabella.data.fingerprint import digest_of_inputs, refuse_changed, sampled, stamp
from fabella.errors import TextError
from tests.data.samples import data, lines
from tests.tokenizers.samples import trained

BYTES = Bytes()


def test_each_setting_that_decides_the_ids_counts() -> None:
    base = data()
    every = [
        digest_of_inputs(base, BYTES),
        digest_of_inputs(base, BPE(vocabulary=300)),
        digest_of_inputs(base, BPE(vocabulary=301)),
        digest_of_inputs(data(Storybook(stories=61)), BYTES),
        digest_of_inputs(data(Storybook(stories=60, seed=2)), BYTES),
        digest_of_inputs(data(validation=Held(fraction=0.3)), BYTES),
        digest_of_inputs(data(validation=Given(source=Storybook(seed=3))), BYTES),
        digest_of_inputs(base.model_copy(update={"invalid_text": "replace"}), BYTES),
        digest_of_inputs(data(Mixture(parts=(Part(weight=1, source=Storybook()),))), BYTES),
    ]
    assert len(set(every)) == len(every)


def test_windows_do_not_count() -> None:
    """They are cut when the data is read."""
    one, other = data(windows=Chained(length=8, stride=4)), data(windows=Documents(length=100))
    assert digest_of_inputs(one, BYTES) == digest_of_inputs(other, BYTES)


def test_content_counts_and_place_does_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = data(lines(tmp_path / "a" / "text.txt", ["one", "two"]))
    there = data(lines(tmp_path / "b" / "text.txt", ["one", "two"]))
    assert digest_of_inputs(here, BYTES) == digest_of_inputs(there, BYTES)
    lines(tmp_path / "b" / "text.txt", ["one", "too"])
    assert digest_of_inputs(here, BYTES) != digest_of_inputs(there, BYTES)


def test_times_do_not_count(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "text.txt", ["one", "two"]))
    before = digest_of_inputs(of, BYTES)
    os.utime(tmp_path / "text.txt", (0, 0))
    assert digest_of_inputs(of, BYTES) == before


@pytest.mark.fault("B14", cases=2)
def test_a_byte_more_counts_in_the_text_and_in_the_validation_text(tmp_path: Path) -> None:
    text, validation = lines(tmp_path / "a.txt", ["one"]), lines(tmp_path / "b.txt", ["two"])
    of = data(text, Given(source=validation))
    seen = {digest_of_inputs(of, BYTES)}
    for name in ("a.txt", "b.txt"):
        with (tmp_path / name).open("a") as file:
            file.write("!")
        seen.add(digest_of_inputs(of, BYTES))
    assert len(seen) == 3


def test_the_content_of_a_tokenizer_counts(tmp_path: Path) -> None:
    trained("bpe", 400).save(tmp_path / "tokenizer")
    section = Pretrained(source=str(tmp_path / "tokenizer"))
    before = digest_of_inputs(data(), section)
    by_file = Pretrained(source=str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert digest_of_inputs(data(), by_file) != before, "what was asked for is another section"
    shutil.rmtree(tmp_path / "tokenizer")
    trained("bpe", 500).save(tmp_path / "tokenizer")
    assert digest_of_inputs(data(), section) != before


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "text.txt", ["one", "two"]))
    before = stamp(of)
    refuse_changed(before, of)
    lines(tmp_path / "text.txt", ["one", "two", "three"])
    with pytest.raises(TextError, match=r"text\.txt was changed while it was being prepared\. Prepare it again"):
        refuse_changed(before, of)


def test_a_file_that_goes_meanwhile_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in "ab":
        lines(tmp_path / "texts" / f"{name}.txt", ["one"])
    of = data().model_copy(
        update={"source": lines(tmp_path / "c.txt", ["x"]).model_copy(update={"paths": (str(tmp_path / "texts"),)})}
    )
    before = stamp(of)
    (tmp_path / "texts" / "b.txt").unlink()
    with pytest.raises(TextError, match="Files came or went"):
        refuse_changed(before, of)
    shutil.rmtree(tmp_path / "texts")
    with pytest.raises(TextError):
        refuse_changed(before, of)


def test_a_data_section_of_no_files_has_no_stamp() -> None:
    assert stamp(data()) == []
    assert isinstance(data(), Data)


# ---------------------------------------------------------------- streams


def streaming(of: Data, **settings: int) -> Data:
    return of.model_copy(update={"reading": Streamed(**settings)})  # pyright: ignore[reportArgumentType]


def test_of_a_stream_only_what_decides_its_head_counts() -> None:
    base = data()
    one, other = streaming(base), streaming(base, row_buffer=7, sequence_buffer=7, ahead=7)
    assert digest_of_inputs(one, BYTES) == digest_of_inputs(other, BYTES)
    assert digest_of_inputs(one, BYTES) != digest_of_inputs(base, BYTES)
    assert digest_of_inputs(one, BYTES) != digest_of_inputs(streaming(base, head_bytes=1000), BYTES)


@pytest.mark.fault("B14", cases=6)
@pytest.mark.parametrize("at", [0, 1000, 65_535, 2_000_000, 3_999_999, 4_000_000])
def test_a_changed_byte_of_a_streamed_file_is_noticed(at: int, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"fox " * 1_000_000)
    before = sampled([path])
    raw = bytearray(path.read_bytes())
    raw[at : at + 1] = b"!"
    path.write_bytes(raw)
    assert sampled([path]) != before


def test_of_large_and_of_many_files_only_samples_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 10)
    monkeypatch.setattr(fingerprint, "SAMPLES", 8)
    monkeypatch.setattr(fingerprint, "SAMPLES_OF_ALL", 32)
    files = [tmp_path / f"{number}.txt" for number in range(8)]
    for file in files:
        file.write_bytes(bytes(range(100)) * 10)
    alone, beside_others = sampled(files[:1]), sampled(files)
    assert len(set(beside_others)) == 1
    assert alone[0] != beside_others[0]  # eight blocks of one file, four of each of eight
    for place, noticed in ((0, True), (999, True), (20, False)):
        raw = bytearray(bytes(range(100)) * 10)
        raw[place] = 255
        files[0].write_bytes(raw)
        assert (sampled(files[:1]) != alone) == noticed
