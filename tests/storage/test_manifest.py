"""A manifest proves each file of a folder, and itself."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import StorageError
from fabella.storage import atomic_dir, dump_manifest, read_manifest, read_verified, verify_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_dir(tmp_path / "step") as aside:
        (aside / "state.json").write_bytes(b'{"step": 120}')
        (aside / "model").write_bytes(bytes(100))
    return tmp_path / "step"


def write_manifest(folder: Path, files: object) -> None:
    (folder / "manifest.json").write_bytes(dump_manifest({"files": files}))


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_manifest_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "manifest.json").write_bytes(dump_manifest(values))
    values.pop("digest", None)
    read = read_manifest(folder)
    read.pop("digest")
    assert read == values


def test_every_byte_of_a_manifest_counts(folder: Path) -> None:
    path = folder / "manifest.json"
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(StorageError, match=r"^step/manifest.json: damaged"):
            read_manifest(folder)


def test_the_first_wrong_file_is_named(folder: Path) -> None:
    (folder / "state.json").write_bytes(b'{"step": 999}')
    with pytest.raises(StorageError, match=r"^step/state.json: damaged, its sha256 differs from the manifest\.$"):
        verify_folder(folder)
    (folder / "model").write_bytes(bytes(12))
    with pytest.raises(StorageError, match=r"^step/model: size 12 != 100 in manifest\.$"):
        verify_folder(folder)
    (folder / "model").unlink()
    with pytest.raises(StorageError, match=r"^step/model: missing\.$"):
        verify_folder(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"^step/manifest.json: no manifest, so the folder is incomplete\.$"):
        verify_folder(folder)


def test_the_bytes_that_are_returned_are_those_that_were_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(folder)
    reads = list[Path]()
    read_bytes = Path.read_bytes

    def swapped_right_after(path: Path) -> bytes:
        data = read_bytes(path)
        reads.append(path)
        path.write_bytes(b"x" * len(data))
        return data

    monkeypatch.setattr(Path, "read_bytes", swapped_right_after)
    assert read_verified(folder, manifest, "state.json") == b'{"step": 120}'
    assert reads == [folder / "state.json"]


@pytest.mark.parametrize("name", ["../step/model", "/etc/hostname", "a/../../b", "a\\b", "a\nb", "a\x1bb", "", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(name: str, folder: Path) -> None:
    write_manifest(folder, {name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(StorageError, match=r"the name '.*' leads out of the folder") as caught:
        verify_folder(folder)
    assert str(caught.value).isprintable()


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").write_bytes(bytes(100))
    (folder / "model").unlink()
    (folder / "model").symlink_to(tmp_path / "elsewhere" / "model")
    with pytest.raises(StorageError, match="step/model: not a plain file"):
        verify_folder(folder)
    (folder / "inner").symlink_to(tmp_path / "elsewhere")
    write_manifest(folder, {"inner/model": {"size": 100, "sha256": "0" * 64}})
    with pytest.raises(StorageError, match="step/inner/model: not a plain file"):
        verify_folder(folder)


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
def test_a_manifest_of_another_shape_is_damaged(files: object, problem: str, folder: Path) -> None:
    write_manifest(folder, files)
    with pytest.raises(StorageError, match=problem):
        verify_folder(folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_no_manifest_is_damaged(data: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(StorageError, match=r"^step/manifest.json: damaged"):
        read_manifest(folder)


def test_a_manifest_too_large_to_be_one_is_not_read(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 65 * 2**20)
    with pytest.raises(StorageError, match="68 MB is too large for a manifest"):
        read_manifest(folder)


def test_a_file_beside_the_manifest_may_not_be_asked_for(folder: Path) -> None:
    (folder / "notes").write_text("mine")
    assert json.dumps(sorted(verify_folder(folder)["files"])) == '["model", "state.json"]'
    with pytest.raises(StorageError, match="step/notes: not listed in the manifest"):
        read_verified(folder, read_manifest(folder), "notes")
