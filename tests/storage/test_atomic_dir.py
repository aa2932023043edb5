"""A folder is whole or absent, and its manifest proves it."""

import errno
import json
import os
from pathlib import Path

import pytest

from fabella.errors import DiskFullError, StorageError
from fabella.storage import atomic_dir, remove_dir, remove_stale_temps, restore_replaced, verify_folder, write_chunks


def fill(folder: Path, text: str = "first") -> None:
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "inner" / "deep" / "story.txt").write_text(text)
    write_chunks(folder / "ids", [b"\1\2", b"\3"])


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "not" / "there" / "prepared"
    with atomic_dir(target) as aside:
        assert aside.parent == target.parent
        assert list(aside.iterdir()) == []
        fill(aside)
        assert not target.exists()
    assert verify_folder(target)["files"]["ids"] == {
        "size": 3,
        "sha256": "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81",
    }
    assert sorted(verify_folder(target)["files"]) == ["ids", "inner/deep/story.txt"]
    assert names(target.parent) == ["prepared"]


def test_the_writers_own_manifest_is_kept(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as aside:
        (aside / "manifest.json").write_text(json.dumps({"tokens": 12, "name": "naïve"}))
        (aside / "x").write_bytes(b"x")
    manifest = verify_folder(tmp_path / "a")
    assert (manifest["tokens"], manifest["name"], list(manifest["files"])) == (12, "naïve", ["x"])


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as aside:
        fill(aside)
    before = verify_folder(tmp_path / "a")
    match = r"a exists already\. Choose another place, or remove it\."
    with pytest.raises(StorageError, match=match), atomic_dir(tmp_path / "a"):
        pytest.fail("nothing may be written for a folder that is refused")
    assert verify_folder(tmp_path / "a") == before


def test_a_folder_that_came_while_ours_was_written_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exists already"), atomic_dir(tmp_path / "a"):
        (tmp_path / "a").mkdir()
    assert names(tmp_path) == ["a"]


def test_replacing_gives_the_new_folder_alone(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_dir(tmp_path / "a", replace=True) as aside:
            fill(aside, text)
    assert (tmp_path / "a" / "inner" / "deep" / "story.txt").read_text() == "second"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_dir(tmp_path / "a") as aside:
            fill(aside)
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_an_os_error_of_the_caller_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_dir(tmp_path / "a"):
        (tmp_path / "source").read_bytes()


def test_a_failed_rename_keeps_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_dir(tmp_path / "a") as aside:
        fill(aside)
    before = verify_folder(tmp_path / "a")
    rename, seen = os.rename, list[str]()

    def failing(source: Path, target: Path) -> None:
        seen.append(Path(target).name)
        if len(seen) == 2:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    match = "disk quota used up: writing a needs 10 bytes"
    with pytest.raises(DiskFullError, match=match), atomic_dir(tmp_path / "a", replace=True, needed=10) as aside:
        fill(aside, "second")
    assert verify_folder(tmp_path / "a") == before
    assert names(tmp_path) == ["a"]


def test_an_older_folder_is_put_back_when_its_successor_never_came(tmp_path: Path) -> None:
    older = tmp_path / ".a.replaced-0123456789ab"
    older.mkdir()
    fill(older)
    assert restore_replaced(tmp_path) == ["a"]
    assert (tmp_path / "a" / "ids").exists()
    assert restore_replaced(tmp_path) == []


def test_an_older_folder_is_removed_when_its_successor_came(tmp_path: Path) -> None:
    (tmp_path / ".a.replaced-0123456789ab").mkdir()
    (tmp_path / "a").mkdir()
    assert restore_replaced(tmp_path) == []
    assert remove_stale_temps(tmp_path) == ["a"]
    assert names(tmp_path) == ["a"]


def test_a_link_is_not_taken_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="writing a failed"), atomic_dir(tmp_path / "a") as aside:
        (aside / "link").symlink_to("/etc/hostname")
    assert names(tmp_path) == []


def test_removing_a_folder_leaves_nothing(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "a") as aside:
        fill(aside)
    remove_dir(tmp_path / "a")
    assert names(tmp_path) == []
    with pytest.raises(StorageError, match="removing a failed"):
        remove_dir(tmp_path / "a")
