"""Paths expand to the same files in the same order on every machine, each once."""

import os
from pathlib import Path

import pytest

from fabella.errors import TextError
from fabella.text.paths import expand_paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.txt", "a.txt", "sub/c.jsonl", "sub/deep/d.csv.gz", "B.TXT", "e.parquet", "f.md", ".hidden.txt", "z.png",
        "__MACOSX/a.txt", ".git/x.txt", "notes.docx",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("story")
    return tmp_path


def names(folder: Path, *paths: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in expand_paths(tuple(str(folder / path) for path in paths))]


def test_a_directory_expands_to_its_text_files_at_any_depth_sorted(folder: Path) -> None:
    assert names(folder, ".") == ["B.TXT", "a.txt", "b.txt", "e.parquet", "f.md", "sub/c.jsonl", "sub/deep/d.csv.gz"]


def test_a_glob_expands_to_its_matches_sorted(folder: Path) -> None:
    assert names(folder, "*.txt") == ["a.txt", "b.txt"]
    assert names(folder, "**/*.csv.gz") == ["sub/deep/d.csv.gz"]
    assert names(folder, "[ab].txt") == ["a.txt", "b.txt"]


def test_paths_keep_their_order_and_each_file_comes_once(folder: Path) -> None:
    assert names(folder, "b.txt", "*.txt", "sub/../b.txt", "sub") == [
        "b.txt",
        "a.txt",
        "sub/c.jsonl",
        "sub/deep/d.csv.gz",
    ]


def test_a_named_file_may_have_any_suffix_and_be_hidden(folder: Path) -> None:
    assert names(folder, ".hidden.txt", "z.png") == [".hidden.txt", "z.png"]
    assert names(folder, ".git") == [".git/x.txt"]


def test_a_file_name_with_glob_characters_is_a_file_name_first(folder: Path) -> None:
    (folder / "a[1].txt").write_text("story")
    assert names(folder, "a[1].txt") == ["a[1].txt"]


def test_a_tilde_is_the_home_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert expand_paths(("~/a.txt",)) == [folder / "a.txt"]


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    assert names(folder, "sub") == ["sub/c.jsonl", "sub/deep/d.csv.gz"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.tx", r"There is no file .*a\.tx\. Did you mean 'a\.txt'\?"),
        ("quite-another.txt", "There is no file .* Fabella reads .txt, .jsonl, .csv and .parquet"),
        ("nowhere/a.txt", "There is no file .*The directory .*nowhere does not exist, either"),
        ("*.story", "There is no file .*The pattern matches no file"),
        ("a" * 300, "Cannot look up .*too long"),
        ("nul\0.txt", "There is no file|Cannot look up"),
    ],
)
def test_a_missing_path_is_an_error_with_the_nearest_name(folder: Path, path: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        names(folder, path)


def test_a_directory_without_text_is_an_error_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(TextError, match=r"There is no text in the directory .*\. Fabella reads \.txt"):
        expand_paths((str(tmp_path),))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "A.ZIP", "a.tar.zst"])
def test_archives_are_refused_by_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TextError, match=r"is an archive\. Unpack it, then give its files or their directory"):
        expand_paths((str(tmp_path / name),))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(TextError, match=r"is a pipe or a device, but .* Save it to a file first"):
        expand_paths((str(tmp_path / "pipe.txt"),))
