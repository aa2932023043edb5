"""``fabella tokenizer`` as it is typed."""

import json
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.tokenizers import loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizers") / "mine"
    assert main.run(["tokenizer", "train", "storybook:100", "--tokenizer", "bpe:400", "--out", str(place)]) == 0
    return place


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "mine"
    command = ["tokenizer", "train", "storybook:100", "--tokenizer", "sentencepiece:400", "--out", str(place)]
    assert main.run([*command, "--json"]) == 0
    shown, said = capsys.readouterr()
    found = json.loads(shown)
    assert (found["kind"], found["vocab_size"], found["round_trip"]) == ("sentencepiece", 400, True)
    assert found["fingerprint"] == loading.load(place).fingerprint
    assert "the tokenizer was trained on all of the training text" in said


def test_train_tells_people(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main.run(["tokenizer", "train", "storybook:100", "--tokenizer", "bpe:400", "--out", str(tmp_path / "b")]) == 0
    )
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "tokenizer",
        "vocab_size",
        "bytes/token",
        "tokens/word",
        "coverage",
        "used",
        "round",
        "trip",
    ]
    assert row.split()[1] == "400"
    assert row.split()[-1] == "yes"


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", str(folder), "--text", " the \u00e9\n"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "bpe"]
    assert lines[1].split() == ["vocabulary", "400"]
    assert [line.split("  ")[-1] for line in lines[4:]] == ["' the'", "' '", "'\\xc3'", "'\\xa9'", "'\\n'"]


def test_show_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", str(folder), "--text", "once <|endoftext|>", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "".join(found["pieces"]) == found["text"] == "once <|endoftext|>"
    assert found["end"] not in found["ids"]


def test_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "compare", str(folder), "bytes", "--text", "storybook:50", "--json"]) == 0
    mine, of_bytes = json.loads(capsys.readouterr().out)["tokenizers"]
    assert (mine["name"], of_bytes["name"]) == (str(folder), "bytes")
    assert mine["bytes_per_token"] > of_bytes["bytes_per_token"] == 1.0
    assert mine["fertility"] < of_bytes["fertility"]
    assert mine["round_trip"] is of_bytes["round_trip"] is True
    assert main.run(["tokenizer", "compare", str(folder), "bytes", "--text", "storybook:50"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["train", "storybook:9", "--tokenizer", "bytes"], 2, "bytes is not trained. Choose bpe:4096 or"),
        (["train", "nowhere.txt"], 3, "There is no file nowhere.txt"),
    ],
)
def test_what_cannot_be_trained(
    words: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["tokenizer", *words, "--out", str(tmp_path / "out")]) == code
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_older_tokenizer_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = loading.load(folder).fingerprint
    assert main.run(["tokenizer", "train", "storybook:9", "--out", str(folder)]) == 4
    assert "exists already" in capsys.readouterr().err
    assert loading.load(folder).fingerprint == before


@pytest.mark.parametrize("words", [["show", "nothing.json"], ["compare", "nothing.json", "--text", "storybook:9"]])
def test_what_cannot_be_opened(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", *words]) == 3
    assert "There is no tokenizer at nothing.json" in capsys.readouterr().err


def test_what_is_yet_to_be_trained_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", "bpe:400"]) == 3
    assert "bpe:400 is a tokenizer yet to be trained" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["train"], ["show"], ["compare"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", *words, "--help"]) == 0
    assert "Usage: fabella tokenizer" in capsys.readouterr().out
