"""Tests that a manifest verifies each file of a directory, and itself."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import StorageError
from fabella.storage import atomic_dir, dump_manifest, read_manifest, read_verified, verify_dir

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with atomic_dir(tmp_path / "step") as temp:
        (temp / "state.json").write_bytes(b'{"step": 120}')
        (temp / "model").write_bytes(bytes(100))
    return tmp_path / "step"


def write_manifest(directory: Path, files: object) -> None:
    (directory / "manifest.json").write_bytes(dump_manifest({"files": files}))


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_manifest_round_trips(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    directory = tmp_path_factory.mktemp("manifest")
    (directory / "manifest.json").write_bytes(dump_manifest(values))
    values.pop("digest", None)
    read = read_manifest(directory)
    read.pop("digest")
    assert read == values


def test_any_flipped_bit_of_a_manifest_is_found(directory: Path) -> None:
    path = directory / "manifest.json"
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(StorageError, match=r"^step/manifest.json: damaged"):
            read_manifest(directory)


def test_the_first_wrong_file_is_named(directory: Path) -> None:
    (directory / "state.json").write_bytes(b'{"step": 999}')
    with pytest.raises(StorageError, match=r"^step/state.json: damaged: its sha256 differs from the manifest\.$"):
        verify_dir(directory)
    (directory / "model").write_bytes(bytes(12))
    with pytest.raises(StorageError, match=r"^step/model: size 12 != 100 in manifest\.$"):
        verify_dir(directory)
    (directory / "model").unlink()
    with pytest.raises(StorageError, match=r"^step/model: missing\.$"):
        verify_dir(directory)
    (directory / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"^step/manifest.json: no manifest, so the directory is incomplete\.$"):
        verify_dir(directory)


def test_the_returned_bytes_are_those_that_were_checked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(directory)
    reads = list[Path]()
    read_bytes = Path.read_bytes

    def swapped_right_after(path: Path) -> bytes:
        data = read_bytes(path)
        reads.append(path)
        path.write_bytes(b"x" * len(data))
        return data

    monkeypatch.setattr(Path, "read_bytes", swapped_right_after)
    assert read_verified(directory, manifest, "state.json") == b'{"step": 120}'
    assert reads == [directory / "state.json"]


@pytest.mark.parametrize("name", ["../step/model", "/etc/hostname", "a/../../b", "a\\b", "a\nb", "a\x1bb", "", "a\0b"])
def test_names_outside_the_directory_are_refused(name: str, directory: Path) -> None:
    write_manifest(directory, {name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(StorageError, match=r"the name '.*' leads out of the directory") as caught:
        verify_dir(directory)
    assert str(caught.value).isprintable()


def test_symbolic_links_are_not_followed(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").write_bytes(bytes(100))
    (directory / "model").unlink()
    (directory / "model").symlink_to(tmp_path / "elsewhere" / "model")
    with pytest.raises(StorageError, match="step/model: not a plain file"):
        verify_dir(directory)
    (directory / "inner").symlink_to(tmp_path / "elsewhere")
    write_manifest(directory, {"inner/model": {"size": 100, "sha256": "0" * 64}})
    with pytest.raises(StorageError, match="step/inner/model: not a plain file"):
        verify_dir(directory)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (None, "it lists no files"),
        ([], "it lists no files"),
        ({"model": 7}, "'model' has no size and sha256"),
        ({"model": {"size": "100", "sha256": ""}}, "'model' has no size and sha256"),
        ({"model": {"size": True, "sha256": ""}}, "'model' has no size and sha256"),
        ({"model": {"size": 100}}, "'model' has no size and sha256"),
    ],
)
def test_a_manifest_of_another_structure_is_damaged(files: object, problem: str, directory: Path) -> None:
    write_manifest(directory, files)
    with pytest.raises(StorageError, match=problem):
        verify_dir(directory)


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_file_that_is_not_a_manifest_is_damaged(data: bytes, directory: Path) -> None:
    (directory / "manifest.json").write_bytes(data)
    with pytest.raises(StorageError, match=r"^step/manifest.json: damaged"):
        read_manifest(directory)


def test_an_oversized_manifest_is_not_read(directory: Path) -> None:
    os.truncate(directory / "manifest.json", 65 * 2**20)
    with pytest.raises(StorageError, match="68 MB is too large for a manifest"):
        read_manifest(directory)


def test_a_file_that_the_manifest_does_not_list_cannot_be_read(directory: Path) -> None:
    (directory / "notes").write_text("mine")
    assert json.dumps(sorted(verify_dir(directory)["files"])) == '["model", "state.json"]'
    with pytest.raises(StorageError, match="step/notes: not listed in the manifest"):
        read_verified(directory, read_manifest(directory), "notes")
