"""Tests of the command ``fabella tokenizer``."""

import json
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.tokenizers import loading


@pytest.fixture(scope="module")
def trained_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizers") / "mine"
    assert main.run(["tokenizer", "train", "storybook:100", "--tokenizer", "bpe:400", "--out", str(path)]) == 0
    return path


def test_train_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine"
    command = ["tokenizer", "train", "storybook:100", "--tokenizer", "sentencepiece:400", "--out", str(path)]
    assert main.run([*command, "--json"]) == 0
    output, status = capsys.readouterr()
    result = json.loads(output)
    assert (result["kind"], result["vocab_size"], result["round_trip"]) == ("sentencepiece", 400, True)
    assert result["fingerprint"] == loading.load(path).fingerprint
    assert "the tokenizer was trained on all of the training text" in status


def test_train_prints_a_table(trained_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_show(trained_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", str(trained_dir), "--text", " the \u00e9\n"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "bpe"]
    assert lines[1].split() == ["vocab_size", "400"]
    assert lines[3].split() == ["special_tokens", "<|endoftext|>", "0"]
    assert [line.split("  ")[-1] for line in lines[5:]] == ["' the'", "' '", "'\\xc3'", "'\\xa9'", "'\\n'"]


def test_show_prints_json(trained_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", str(trained_dir), "--text", "once <|endoftext|>", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "".join(result["pieces"]) == result["text"] == "once <|endoftext|>"
    assert result["eos_id"] not in result["ids"]


def test_compare(trained_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "compare", str(trained_dir), "bytes", "--text", "storybook:50", "--json"]) == 0
    mine, of_bytes = json.loads(capsys.readouterr().out)["tokenizers"]
    assert (mine["name"], of_bytes["name"]) == (str(trained_dir), "bytes")
    assert mine["bytes_per_token"] > of_bytes["bytes_per_token"] == 1.0
    assert mine["fertility"] < of_bytes["fertility"]
    assert mine["round_trip"] is of_bytes["round_trip"] is True
    assert main.run(["tokenizer", "compare", str(trained_dir), "bytes", "--text", "storybook:50"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["train", "storybook:9", "--tokenizer", "bytes"],
            2,
            "Cannot train tokenizer bytes. Use --tokenizer bpe:4096 or",
        ),
        (["train", "nowhere.txt"], 3, "There is no file nowhere.txt"),
    ],
)
def test_an_invalid_training_leaves_nothing(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["tokenizer", *arguments, "--out", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_older_tokenizer_is_not_overwritten(trained_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = loading.load(trained_dir).fingerprint
    assert main.run(["tokenizer", "train", "storybook:9", "--out", str(trained_dir)]) == 4
    assert "exists already" in capsys.readouterr().err
    assert loading.load(trained_dir).fingerprint == before


@pytest.mark.parametrize("arguments", [["show", "nothing.json"], ["compare", "nothing.json", "--text", "storybook:9"]])
def test_a_missing_tokenizer_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", *arguments]) == 3
    assert "Cannot find a tokenizer at nothing.json" in capsys.readouterr().err


def test_an_untrained_tokenizer_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", "show", "bpe:400"]) == 3
    assert "Tokenizer bpe:400 is not trained yet" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train"], ["show"], ["compare"]])
def test_every_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tokenizer", *arguments, "--help"]) == 0
    assert "Usage: fabella tokenizer" in capsys.readouterr().out


def test_special_tokens_are_added_by_training_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tokenizer", "train", "storybook:50", "--tokenizer", "bpe:300", "--out", str(tmp_path / "out")]
    assert main.run([*arguments, "--special-token", "<|user|>", "--special-token", "<|end|>"]) == 0
    tokenizer = loading.load(tmp_path / "out")
    assert {"<|user|>", "<|end|>"} <= set(tokenizer.special_tokens)
    assert tokenizer.special_tokens["<|end|>"] not in tokenizer.encode("<|end|>")
    capsys.readouterr()
    assert main.run(["tokenizer", "show", str(tmp_path / "out")]) == 0
    assert f"<|end|> {tokenizer.special_tokens['<|end|>']}" in capsys.readouterr().out
    assert main.run([*arguments[:-1], str(tmp_path / "other"), "--special-token", " "]) == 2
    assert "cannot be a special token" in capsys.readouterr().err
