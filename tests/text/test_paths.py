"""Tests that paths expand to the same files in the same order on every machine, each once."""

import os
from pathlib import Path

import pytest

from fabella.errors import TextError
from fabella.text.paths import expand_paths, find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.txt", "a.txt", "sub/c.jsonl", "sub/deep/d.csv.gz", "B.TXT", "e.parquet", "f.md", ".hidden.txt", "z.png",
        "~$f.docx", "__MACOSX/a.txt", ".git/x.txt", "notes.doc",
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


def test_links_to_folders_are_followed_and_each_file_comes_once(folder: Path) -> None:
    (folder / "linked").mkdir()
    (folder / "linked" / "here").symlink_to(folder / "sub")
    (folder / "sub" / "loop").symlink_to(folder / "sub")
    assert names(folder, "linked") == ["linked/here/c.jsonl", "linked/here/deep/d.csv.gz"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in (
        "README.md", "LICENSE.txt", "dataset_infos.json", "data/train-00000-of-00001.parquet", "code/a.py", "code/b.py",
        "data/validation-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "pages/p.html", "cover.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("story")
    return tmp_path


def test_only_the_training_files_of_a_dataset_are_read_and_the_others_are_counted(dataset: Path) -> None:
    found = find_files((str(dataset),))
    assert [path.name for path in found.files] == ["train-00000-of-00001.parquet"]
    assert found.splits == {"train", "validation", "test"}
    assert found.messages == [
        f"read 3 of 10 files of {dataset}; left out: 2 .py, 1 .png, 1 .html, LICENSE.txt, README.md and "
        f"dataset_infos.json; '{dataset}/**/*.py' reads the .py files",
        "read the train split, 1 of 3 files by their names; not 1 test, 1 validation",
    ]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_another_split_can_be_read(dataset: Path, split: str) -> None:
    assert [path.name for path in expand_paths((str(dataset),), split)] == [f"{split}-00000-of-00001.parquet"]
    assert len(expand_paths((str(dataset),), "all")) == 3


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (["train/a.txt", "valid/a.txt", "extra.txt"], ["train/a.txt"]),
        (["train.jsonl", "dev.jsonl"], ["train.jsonl"]),
        (["stories_train.txt", "stories_val.txt"], ["stories_train.txt"]),
        (["train.txt", "b.txt"], ["b.txt", "train.txt"]),
        (["a-train-ride.txt", "the-test-match.txt", "b.txt"], ["a-train-ride.txt", "b.txt", "the-test-match.txt"]),
        (["test.txt", "valid.txt"], ["test.txt", "valid.txt"]),
        (["guide/a.md", "guide/README.md", "LICENSE"], ["guide/README.md", "guide/a.md"]),
        (["a.txt", "README.md", "package.json"], ["a.txt"]),
        (["page.html", "README.md"], ["page.html"]),
        (["a.py", "setup.cfg", "README.md"], ["a.py"]),
        (["README.md"], ["README.md"]),
    ],
)  # fmt: skip
def test_names_that_mean_something_are_understood(tmp_path: Path, files: list[str], read: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("story")
    assert names(tmp_path, ".") == read


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.tx", r"There is no file .*a\.tx\. Did you mean 'a\.txt'\?"),
        ("quite-another.txt", "There is no file .* Fabella reads .txt, .md, .jsonl, .csv and .parquet"),
        ("nowhere/a.txt", "There is no file .*The directory .*nowhere does not exist, either"),
        ("*.story", "There is no file .*The pattern matches no file"),
        ("a" * 300, "Cannot look up .*too long"),
        ("nul\0.txt", "There is no file|Cannot look up"),
    ],
)
def test_a_missing_path_is_an_error_with_the_nearest_name(folder: Path, path: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        names(folder, path)


def test_a_name_of_the_hub_leads_to_its_source() -> None:
    with pytest.raises(TextError, match=r"There is no file .*: hub:roneneldan/TinyStories$"):
        expand_paths(("roneneldan/TinyStories",))


def test_a_directory_without_text_is_an_error_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(TextError, match=r"There is no text in the directory .*\. Fabella reads \.txt"):
        expand_paths((str(tmp_path),))


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "A.RAR"])
def test_other_archives_are_refused_by_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TextError, match=r"is an archive\. Unpack it, then give its files or their directory"):
        expand_paths((str(tmp_path / name),))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(TextError, match=r"is a pipe or a device, but .* Save it to a file first"):
        expand_paths((str(tmp_path / "pipe.txt"),))
