"""Tests that a directory is written atomically, with a manifest of its files."""

import errno
import json
import os
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.storage import atomic_dir, remove_dir, remove_stale_temps, restore_replaced, verify_dir, write_chunks


def fill(directory: Path, text: str = "first") -> None:
    (directory / "inner" / "deep").mkdir(parents=True)
    (directory / "inner" / "deep" / "story.txt").write_text(text)
    write_chunks(directory / "ids", [b"\1\2", b"\3"])


def names(directory: Path) -> list[str]:
    return sorted(item.name for item in directory.iterdir())


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "not" / "there" / "prepared"
    with atomic_dir(target) as temp:
        assert temp.parent == target.parent
        assert list(temp.iterdir()) == []
        fill(temp)
        assert not target.exists()
    assert verify_dir(target)["files"]["ids"] == {
        "size": 3,
        "sha256": "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81",
    }
    assert sorted(verify_dir(target)["files"]) == ["ids", "inner/deep/story.txt"]
    assert names(target.parent) == ["prepared"]


def test_a_manifest_written_in_the_block_is_merged(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as temp:
        (temp / "manifest.json").write_text(json.dumps({"tokens": 12, "name": "naïve"}))
        (temp / "x").write_bytes(b"x")
    manifest = verify_dir(tmp_path / "a")
    assert (manifest["tokens"], manifest["name"], list(manifest["files"])) == (12, "naïve", ["x"])


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as temp:
        fill(temp)
    before = verify_dir(tmp_path / "a")
    match = r"a exists already\. Choose another path, or remove it\."
    with pytest.raises(StorageError, match=match), atomic_dir(tmp_path / "a"):
        pytest.fail("the block must not run for a refused directory")
    assert verify_dir(tmp_path / "a") == before


def test_a_directory_created_during_the_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"), atomic_dir(tmp_path / "a"):
        (tmp_path / "a").mkdir()
    assert names(tmp_path) == ["a"]


def test_replacing_leaves_only_the_new_directory(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_dir(tmp_path / "a", replace=True) as temp:
            fill(temp, text)
    assert (tmp_path / "a" / "inner" / "deep" / "story.txt").read_text() == "second"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_dir(tmp_path / "a") as temp:
            fill(temp)
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_an_os_error_of_the_block_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_dir(tmp_path / "a"):
        (tmp_path / "source").read_bytes()


def test_a_failed_rename_keeps_the_older_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_dir(tmp_path / "a") as temp:
        fill(temp)
    before = verify_dir(tmp_path / "a")
    rename, renamed = os.rename, list[str]()

    def failing(source: Path, target: Path) -> None:
        renamed.append(Path(target).name)
        if len(renamed) == 2:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    match = "disk quota used up: writing a needs 10 bytes"
    with pytest.raises(DiskFullError, match=match), atomic_dir(tmp_path / "a", replace=True, needed=10) as temp:
        fill(temp, "second")
    assert verify_dir(tmp_path / "a") == before
    assert names(tmp_path) == ["a"]


def test_a_replaced_directory_without_a_successor_is_restored(tmp_path: Path) -> None:
    older = tmp_path / ".a.replaced-0123456789ab"
    older.mkdir()
    fill(older)
    assert restore_replaced(tmp_path) == ["a"]
    assert (tmp_path / "a" / "ids").exists()
    assert restore_replaced(tmp_path) == []


def test_a_replaced_directory_with_a_successor_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.replaced-0123456789ab").mkdir()
    (tmp_path / "a").mkdir()
    assert restore_replaced(tmp_path) == []
    assert remove_stale_temps(tmp_path) == ["a"]
    assert names(tmp_path) == ["a"]


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="writing a failed"), atomic_dir(tmp_path / "a") as temp:
        (temp / "link").symlink_to("/etc/hostname")
    assert names(tmp_path) == []


def test_removing_a_directory_leaves_nothing(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as temp:
        fill(temp)
    remove_dir(tmp_path / "a")
    assert names(tmp_path) == []
    with pytest.raises(StorageError, match="removing a failed"):
        remove_dir(tmp_path / "a")
