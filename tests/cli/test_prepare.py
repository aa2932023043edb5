"""Tests of the command ``fabella prepare``."""

import json
import re
import shlex
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.data.dataset import open_dataset


def many(numbers: range) -> str:
    return "".join(f"Story {number} of the fox and the moon.\n<|endoftext|>\n" for number in numbers)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text(many(range(500)))
    return path


def test_the_report_is_readable_text(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main.run(["prepare", str(stories), "--tokenizer", "bpe:300", "--out", str(out)]) == 0
    shown, output = capsys.readouterr()
    assert f"detected separator of {stories}: <|endoftext|> (500 documents)" in output
    assert re.search(r"held out for validation: \d+ of 500 distinct documents", output)
    assert re.search(r"train +4\d\d +[\d,]+ +[\d,]+ +\d\.\d\d\n", shown)
    assert f"Prepared {out} with a bpe tokenizer of 300 ids." in shown
    assert f"fabella train PRESET --data {out}" in shown
    assert open_dataset(out, full=True).train.documents > 400


def test_json_output_is_one_object_and_nothing_else(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", str(stories), "--tokenizer", "bytes", "--out", str(tmp_path / "out"), "--json"]
    assert main.run(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert main.run(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["fingerprint"] == second["fingerprint"] == open_dataset(tmp_path / "out").fingerprint
    assert first["tokenizer"] == {"kind": "bytes", "vocab_size": 256}
    assert first["train"]["documents"] + first["validation"]["documents"] == 500
    assert first["train"]["tokens"] == first["train"]["bytes"] + first["train"]["documents"]
    assert set(first["data_quality"]) == {"facts", "warnings"}


def test_data_quality_warnings_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(["the same story over and over"] * 50 + ["another story"]))
    command = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", "bytes", "--out", str(tmp_path / "out")]
    assert main.run([*command, "--context-length", "8"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_a_separate_validation_source_is_used(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = tmp_path / "held.txt"
    held_out.write_text(
        "".join(f"Story {number} of the fox and the moon.\n<|endoftext|>\n" for number in range(490, 600))
    )
    command = [
        "prepare",
        str(stories),
        "--tokenizer",
        "bytes",
        "--validation",
        str(held_out),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main.run([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train"]["documents"], result["validation"]["documents"]) == (490, 110)
    assert "10 training documents that are also in the validation source were dropped" in result["notes"]


def test_separator_and_column_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("".join(f"one tale {number}\n" for number in range(100)))
    rest = ["--tokenizer", "bytes", "--context-length", "16", "--json", "--out"]
    assert main.run(["prepare", str(tmp_path / "a.txt"), "--separator", "lines", *rest, str(tmp_path / "out1")]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["documents"] > 80
    (tmp_path / "b.csv").write_text("name,story\n" + "".join(f"n,a tale of {number}\n" for number in range(100)))
    assert main.run(["prepare", str(tmp_path / "b.csv"), "--column", "story", *rest, str(tmp_path / "out2")]) == 0
    assert open_dataset(tmp_path / "out2").train.documents > 80


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["no-such-file.txt"], 3, "There is no file no-such-file.txt"),
        (["storybook:20", "--held-out", "1.5"], 2, "--held-out must be between 0 and 1, not 1.5. For example"),
        (
            ["storybook:20", "--decode-errors", "ignore"],
            2,
            "Unknown --decode-errors 'ignore'. Use strict, replace or skip.",
        ),
        (
            ["storybook:20", "--separator", "lines"],
            2,
            "--separator is only for text files, not for storybook (20 stories",
        ),
        (["storybook:20", "--column", "text"], 2, "--column is only for files and hub datasets, not for storybook (20"),
        (["storybook:20", "--tokenizer", "bpe:10"], 2, "Cannot parse the vocabulary size of 'bpe:10'"),
        (["storybook:20", "--tokenizer", "none.json"], 3, "Cannot find a tokenizer at none.json"),
        (["storybook:2", "--tokenizer", "bytes", "--context-length", "90000"], 3, "a sequence of 90,000 needs 90,001"),
    ],
)
def test_errors_are_one_line(
    options: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["prepare", *options, "--out", str(tmp_path / "out")]) == code
    shown, output = capsys.readouterr()
    assert shown == ""
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_the_next_command_can_be_pasted_for_any_directory_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my tales; $HOME"
    assert main.run(["prepare", "storybook:20", "--tokenizer", "bytes", "--out", str(folder)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("Train on it:  ")
    assert shlex.split(command) == ["fabella", "train", "PRESET", "--data", str(folder)]


def test_a_directory_with_other_files_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main.run(["prepare", "storybook:20", "--tokenizer", "bytes", "--out", str(tmp_path)]) == 4
    assert "is not a prepared dataset" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_out_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["prepare", "storybook:20"]) == 2
    assert "--out" in capsys.readouterr().err
