"""``fabella.json``: what a tokenizer's folder says of itself."""

from pathlib import Path

import pytest

from fabella.errors import StorageError, TokenizerError
from fabella.tokenizers import metadata
from fabella.tokenizers.metadata import TokenizerMetadata


def test_written_and_read(tmp_path: Path) -> None:
    metadata.write(tmp_path / "new", TokenizerMetadata(kind="bpe", end="<end>"), {"tokenizer.json": b"{}"})
    assert metadata.read(tmp_path / "new") == TokenizerMetadata(kind="bpe", end="<end>")
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == b"{}"


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"is no tokenizer: it has no fabella\.json\. Give a folder that 'fabella"):
        metadata.read(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"kind": 1, "end": ""}', b'{"kind": "bpe"', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_one(data: bytes, tmp_path: Path) -> None:
    (tmp_path / metadata.NAME).write_bytes(data)
    with pytest.raises(TokenizerError, match=r"fabella\.json is damaged"):
        metadata.read(tmp_path)


def test_one_of_the_future(tmp_path: Path) -> None:
    metadata.write(tmp_path, TokenizerMetadata(kind="bpe", end="", format=2), {})
    with pytest.raises(TokenizerError, match="has format 2; this version of Fabella reads format 1"):
        metadata.read(tmp_path)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        metadata.write(tmp_path / "file", TokenizerMetadata(kind="bpe", end=""), {})
