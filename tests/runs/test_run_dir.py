"""Tests that a run directory is created once, can be opened later, and is locked by one process."""

import os
from pathlib import Path

import pytest

from fabella.errors import CheckpointError, LockedError, StorageError
from fabella.runs.run_dir import RunDir, parse_step, require_empty, step_name
from fabella.storage import dump_manifest, verify_dir
from tests.runs import stub


def test_a_new_run_directory_can_be_opened(tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path / "runs" / "smallest")
    opened = RunDir.open(tmp_path / "runs" / "smallest")
    assert opened == run_dir
    assert opened.run == stub.RUN
    assert opened.manifest["environment"] == {"fabella": "0.1.0"}
    assert opened.steps() == []


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    assert stub.folder(tmp_path).run == stub.RUN


def test_a_folder_with_a_run_is_refused_with_both_fixes(tmp_path: Path) -> None:
    stub.folder(tmp_path / "run")
    with pytest.raises(StorageError) as caught:
        stub.folder(tmp_path / "run")
    assert str(caught.value) == (
        f"{tmp_path / 'run'} contains a run already. Resume it (fabella resume {tmp_path / 'run'}), "
        "or choose another --out."
    )


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "figures").mkdir()
    with pytest.raises(
        StorageError, match=r"is neither empty nor a run: it contains figures and 1 more\. Choose a new"
    ):
        stub.folder(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "config.yaml").exists()


def test_require_empty_refuses_the_same_folders(tmp_path: Path) -> None:
    require_empty(tmp_path / "new")
    require_empty(tmp_path)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(StorageError, match=r"is neither empty nor a run: it contains notes\."):
        require_empty(tmp_path)
    with pytest.raises(StorageError, match=r"notes is a file\. Choose a new or an empty directory for --out\."):
        require_empty(tmp_path / "notes")
    stub.folder(tmp_path / "two words")
    with pytest.raises(StorageError, match=rf"\(fabella resume '{tmp_path / 'two words'}'\)"):
        require_empty(tmp_path / "two words")


def test_a_file_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match=r"creating run directory run failed at .*: file exists"):
        stub.folder(tmp_path / "run")


def test_an_incomplete_run_directory_is_created_again(tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path)
    (run_dir.path / "config.yaml").rename(tmp_path / ".config.yaml.partial-0123456789ab")
    with pytest.raises(CheckpointError, match=r"is not a run directory: it has no config\.yaml"):
        RunDir.open(tmp_path)
    assert stub.folder(tmp_path).run == stub.RUN


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path)
    with run_dir.lock(), pytest.raises(LockedError, match=f"is locked by pid {os.getpid()} on host"), run_dir.lock():
        pytest.fail("two processes hold the lock")
    with run_dir.lock(), pytest.raises(LockedError):
        stub.folder(tmp_path)


def test_a_missing_run_directory_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No run directory at .*gone\. Give a run .*: fabella quickstart$"):
        RunDir.open(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("Once upon a time")
    with pytest.raises(CheckpointError, match=r"notes.txt is a file, not a run directory\. Give a run directory"):
        RunDir.open(tmp_path / "notes.txt")


def test_a_changed_config_is_refused(tmp_path: Path) -> None:
    path = stub.folder(tmp_path).path / "config.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.003"))
    with pytest.raises(
        CheckpointError, match=r"config.yaml was changed after it was written.*fabella resume"
    ) as caught:
        RunDir.open(tmp_path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\n",
        lambda data: data.replace(b"# sha256", b"# sha257"),
        lambda data: data[:-10] + b"\xff" + data[-9:],
    ],
)
def test_a_damaged_config_is_refused(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    path = stub.folder(tmp_path).path / "config.yaml"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        RunDir.open(tmp_path)


def test_an_oversized_config_is_not_read(tmp_path: Path) -> None:
    os.truncate(stub.folder(tmp_path).path / "config.yaml", 10**9)
    with pytest.raises(CheckpointError, match="is larger than 1,000,000 bytes"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize(("data", "problem"), [(b"{}", "does not match its digest"), (None, "no manifest")])
def test_a_damaged_or_missing_manifest_is_refused(data: bytes | None, problem: str, tmp_path: Path) -> None:
    path = stub.folder(tmp_path).path / "manifest.json"
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(CheckpointError, match=problem):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("format_number", [1, 3, "2", None])
def test_a_folder_of_another_format_is_refused(format_number: object, tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path)
    (run_dir.path / "manifest.json").write_bytes(dump_manifest({"format": format_number}))
    with pytest.raises(CheckpointError, match=f"was written in format {format_number}; this version"):
        RunDir.open(tmp_path)


def test_a_changed_config_is_saved(tmp_path: Path) -> None:
    changed = stub.folder(tmp_path).with_config(stub.keeping(5))
    assert changed.run.checkpoint.keep_last == 5
    assert RunDir.open(tmp_path) == changed


class FakeTokenizer:
    """A tokenizer that writes two files, or fails after the first."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    def save(self, folder: Path) -> None:
        (folder / "fabella.json").write_text("{}")
        if self.fails:
            raise OSError(28, "No space left on device")
        (folder / "tokenizer.json").write_text("{}")


def test_the_tokenizer_is_saved_atomically(tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path)
    with pytest.raises(StorageError, match="disk full: writing the tokenizer"):
        run_dir.save_tokenizer(FakeTokenizer(fails=True))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "tokenizer").exists()
    for _ in range(2):
        run_dir.save_tokenizer(FakeTokenizer())  # pyright: ignore[reportArgumentType]
    assert sorted(verify_dir(tmp_path / "tokenizer")["files"]) == ["fabella.json", "tokenizer.json"]


def test_a_step_name_is_parsed_to_its_step() -> None:
    assert step_name(1000) == "step-00001000"
    assert step_name(123_456_789) == "step-123456789"
    assert parse_step("step-00001000") == 1000
    assert parse_step("step-123456789") == 123_456_789


@pytest.mark.parametrize(
    "name", ["step-1000", "step-000001000", "step-00001000x", "Step-00001000", "", "step-०००००१००"]
)
def test_other_names_have_no_step(name: str) -> None:
    assert parse_step(name) is None


def test_pointers_are_plain_text(tmp_path: Path) -> None:
    run_dir = stub.folder(tmp_path)
    assert run_dir.read_pointer("latest") is None
    run_dir.set_pointer("latest", 120)
    assert (tmp_path / "latest").read_text() == "step-00000120\n"
    assert run_dir.read_pointer("latest") == 120
    (tmp_path / "latest").write_text("step-00000120")  # without the newline, as some editors save it
    assert run_dir.read_pointer("latest") == 120
