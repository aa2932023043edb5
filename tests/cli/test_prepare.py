"""``fabella prepare`` as it is typed."""

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


def test_it_tells_people(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main.run(["prepare", str(stories), "--tokenizer", "bpe:300", "--out", str(out)]) == 0
    shown, said = capsys.readouterr()
    assert f"separator of {stories} guessed: <|endoftext|> (500 documents)" in said
    assert re.search(r"held out for validation: \d+ of 500 distinct documents", said)
    assert re.search(r"train +4\d\d +[\d,]+ +[\d,]+ +\d\.\d\d\n", shown)
    assert f"{out}: ready, bpe tokenizer of 300 ids" in shown
    assert f"fabella train PRESET --data {out}" in shown
    assert open_dataset(out, full=True).train.documents > 400


def test_it_tells_programs_and_nothing_else(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_doctors_warnings_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(["the same story over and over"] * 50 + ["another story"]))
    command = ["prepare", str(tmp_path / "a.txt"), "--tokenizer", "bytes", "--out", str(tmp_path / "out")]
    assert main.run([*command, "--context", "8"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_a_validation_text_of_its_own(stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    found = json.loads(capsys.readouterr().out)
    assert (found["train"]["documents"], found["validation"]["documents"]) == (490, 110)
    assert "10 training documents that also stand in the validation text were dropped" in found["notes"]


def test_separator_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("".join(f"one tale {number}\n" for number in range(100)))
    rest = ["--tokenizer", "bytes", "--context", "16", "--json", "--out"]
    assert main.run(["prepare", str(tmp_path / "a.txt"), "--separator", "lines", *rest, str(tmp_path / "out1")]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["documents"] > 80
    (tmp_path / "b.csv").write_text("name,story\n" + "".join(f"n,a tale of {number}\n" for number in range(100)))
    assert main.run(["prepare", str(tmp_path / "b.csv"), "--column", "story", *rest, str(tmp_path / "out2")]) == 0
    assert open_dataset(tmp_path / "out2").train.documents > 80


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["no-such-file.txt"], 3, "There is no file no-such-file.txt"),
        (["storybook:20", "--held-out", "1.5"], 2, "--held-out 1.5 is no share between 0 and 1. For example"),
        (["storybook:20", "--invalid", "ignore"], 2, "--invalid 'ignore' cannot be taken"),
        (["storybook:20", "--separator", "lines"], 2, "--separator is for files of text; storybook:20 is none"),
        (["storybook:20", "--column", "text"], 2, "--column is for files and data sets; storybook:20 is neither"),
        (["storybook:20", "--tokenizer", "bpe:10"], 2, "'bpe:10' names no vocabulary size"),
        (["storybook:20", "--tokenizer", "none.json"], 3, "There is no tokenizer at none.json"),
        (["storybook:2", "--tokenizer", "bytes", "--context", "90000"], 3, "one window of 90,000 needs 90,001"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    options: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["prepare", *options, "--out", str(tmp_path / "out")]) == code
    shown, said = capsys.readouterr()
    assert shown == ""
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my tales; $HOME"
    assert main.run(["prepare", "storybook:20", "--tokenizer", "bytes", "--out", str(folder)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("Train on it:  ")
    assert shlex.split(command) == ["fabella", "train", "PRESET", "--data", str(folder)]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main.run(["prepare", "storybook:20", "--tokenizer", "bytes", "--out", str(tmp_path)]) == 4
    assert "holds no prepared data" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_out_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["prepare", "storybook:20"]) == 2
    assert "--out" in capsys.readouterr().err
