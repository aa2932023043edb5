"""Tests that text files in archives are read like the files of a directory, with every compression."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.read_report import ReadReport
from fabella.text.source import documents, parse_source, validation_source

FILES = {
    "stories/b.txt": b"The bear slept.\n",
    "stories/a.txt": b"A fox ran.\n",
    "README.md": b"About these stories.\n",
    "stories/.hidden.txt": b"no",
    "pictures/a.png": b"\x89PNG",
}


def write(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write an archive in the format that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    out = io.BytesIO()
    mode = {"gz": "gz", "tgz": "gz", "xz": "xz", "txz": "xz", "bz2": "bz2", "tbz2": "bz2"}.get(path.suffix[1:], "")
    with tarfile.open(fileobj=out, mode=f"w:{mode}") as tar:  # pyright: ignore
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = out.getvalue()
    path.write_bytes(zstandard.compress(data) if path.suffix in (".zst", ".tzst") else data)
    return path


def read(path: Path, notes: ReadReport | None = None, split: str = "train") -> list[str]:
    return list(documents(FilesSource(paths=(str(path),), split=split), notes=notes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst"]
)
def test_the_text_files_of_an_archive_are_read(tmp_path: Path, suffix: str) -> None:
    notes = ReadReport()
    assert sorted(read(write(tmp_path / f"a{suffix}", FILES), notes)) == ["A fox ran.", "The bear slept."]
    message = next(message for message in notes.messages() if "left out" in message)
    assert message == f"read 2 of 4 files of {tmp_path / f'a{suffix}'}; left out: 1 .png and README.md"


def test_tables_and_compressed_files_in_an_archive_are_read(tmp_path: Path) -> None:
    files = {"a.jsonl": b'{"text": "A fox ran."}\n', "b.csv": b"id;text\n1;The bear\n", "c.jsonl.zst": b""}
    files["c.jsonl.zst"] = zstandard.compress(b'{"text": "The end."}\n')
    assert read(write(tmp_path / "a.zip", files)) == ["A fox ran.", "The bear", "The end."]


def test_the_splits_of_an_archive_are_known_by_their_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar.gz", {"d/train.txt": b"A fox ran.\n", "d/valid.txt": b"The end.\n"})
    assert read(path) == ["A fox ran."]
    separate = validation_source(parse_source(str(path)))
    assert separate is not None
    assert list(documents(separate)) == ["The end."]


def test_an_archive_in_a_directory_is_read_only_without_other_text(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", FILES)
    assert len(read(tmp_path)) == 2
    (tmp_path / "c.txt").write_text("Other text.")
    assert read(tmp_path) == ["Other text."]


def test_damage_in_a_file_is_located_below_the_archive(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", {"x/bad.txt": "Жила-была".encode() * 9 + b"\xff"})
    with pytest.raises(TextError, match=r"a\.zip/x/bad\.txt, line 1, byte 154: 0xFF"):
        read(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"There is no text in .*a\.zip\. Unpack it"):
        read(write(tmp_path / "a.zip", {"a.png": b"\x89PNG"}))
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(TextError, match=r"Cannot unpack .*b\.zip"):
        read(tmp_path / "b.zip")
    whole = write(tmp_path / "c.tar.gz", {"a.txt": bytes(range(256)) * 4000}).read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextError, match=r"c\.tar\.gz"):
        read(tmp_path / "c.tar.gz")
    (tmp_path / "d.7z").write_bytes(b"7z")
    with pytest.raises(TextError, match=r"d\.7z is an archive"):
        parse_source(str(tmp_path / "d.7z"))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_decompression_bomb_is_stopped(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", {"a.txt": b"a" * 40_000_000})
    with pytest.raises(TextError, match="decompression bomb"):
        read(path)
