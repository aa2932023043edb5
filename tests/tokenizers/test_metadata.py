"""``fabella.json``: metadata of a saved tokenizer."""

from pathlib import Path

import pytest

from fabella.errors import StorageError, TokenizerError
from fabella.tokenizers import metadata
from fabella.tokenizers.metadata import TokenizerMetadata


def test_metadata_round_trips(tmp_path: Path) -> None:
    metadata.write(tmp_path / "new", TokenizerMetadata(kind="bpe", eos_token="<end>"), {"tokenizer.json": b"{}"})
    assert metadata.read(tmp_path / "new") == TokenizerMetadata(kind="bpe", eos_token="<end>")
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == b"{}"


def test_a_directory_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"is not a tokenizer directory: it has no fabella\.json\. Give a directory written by fabella",
    ):
        metadata.read(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"kind": 1, "eos_token": ""}', b'{"kind": "bpe"', b"[" * 100_000, b"\xff"]
)
def test_damaged_metadata_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / metadata.NAME).write_bytes(data)
    with pytest.raises(TokenizerError, match=r"fabella\.json is damaged"):
        metadata.read(tmp_path)


def test_metadata_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    metadata.write(tmp_path, TokenizerMetadata(kind="bpe", eos_token="", format=2), {})
    with pytest.raises(TokenizerError, match="has format 2; this version of Fabella reads format 1"):
        metadata.read(tmp_path)


def test_an_unwritable_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        metadata.write(tmp_path / "file", TokenizerMetadata(kind="bpe", eos_token=""), {})
