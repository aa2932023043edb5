"""Tests that all commands that read text have the same options, which other sources refuse."""

import json
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.cli.text_options import ReadingOptions, split_first, split_words
from fabella.config.data import FilesSource, HubSource, MixtureSource, StorybookSource
from fabella.errors import TextError, UsageError

COMMANDS = [
    "prepare", "check-data", "train", "plan", "tune", "compare-architectures", "batch-size", "evaluate", "perplexity",
    "tokenizer train", "tokenizer compare",
]  # fmt: skip
READING = ("--separator", "--column", "--encoding", "--boilerplate", "--limit", "--decode-errors", "--max-bad-lines")
TRAINING = ("train", "plan", "tune", "compare-architectures", "batch-size", "prepare", "tokenizer train")
MIXTURE = """
kind: mixture
parts:
  - {weight: 1, source: {kind: files, paths: [%s]}}
  - {weight: 1, source: {kind: storybook, stories: 10}}
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_text_has_the_text_options(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main.run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in READING if option not in shown] == []
    if command in TRAINING:
        assert "--tokenizer" in shown


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("one")
    return path


def test_options_are_set_on_the_source(text: Path) -> None:
    assert ReadingOptions(separator="lines").source(str(text)) == FilesSource(paths=(str(text),), separator="lines")
    assert ReadingOptions(encoding="Latin1").source(str(text)) == FilesSource(paths=(str(text),), encoding="iso8859-1")
    assert ReadingOptions(column="story").source("hub:tiny") == HubSource(name="tiny", column="story")
    assert ReadingOptions().source("storybook") == StorybookSource()


def test_options_that_a_source_does_not_have_are_refused(text: Path) -> None:
    with pytest.raises(UsageError, match="--separator is only for text files, not for hub dataset tiny"):
        ReadingOptions(separator="lines").source("hub:tiny")
    with pytest.raises(UsageError, match="--column is only for files and hub datasets, not for storybook"):
        ReadingOptions(column="story").source("storybook")
    with pytest.raises(UsageError, match=r"Unknown --decode-errors 'ignore'\. Use strict, replace or skip"):
        ReadingOptions(decode_errors="ignore").policy()
    with pytest.raises(UsageError, match=r"Unknown --boilerplate 'drop'\. Use remove or keep"):
        ReadingOptions(boilerplate="drop").source(str(text))
    with pytest.raises(TextError, match=r"Unknown encoding 'latin-l'\. Did you mean 'latin-1'"):
        ReadingOptions(encoding="latin-l").source(str(text))


def test_several_files_are_one_source(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.md"
    other.write_text("two")
    assert ReadingOptions().source(str(text), str(other)) == FilesSource(paths=(str(text), str(other)))
    with pytest.raises(UsageError, match="storybook cannot be joined with other texts"):
        ReadingOptions().source(str(text), "storybook")


def test_the_source_of_a_yaml_is_read_and_its_parts_take_the_options(text: Path, tmp_path: Path) -> None:
    bare = tmp_path / "mix.yaml"
    bare.write_text(MIXTURE % text)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"data": {"source": {"kind": "files", "paths": [str(text)]}}}))
    source = ReadingOptions(encoding="cp1252").source(str(bare))
    assert isinstance(source, MixtureSource)
    assert source.parts[0].source == FilesSource(paths=(str(text),), encoding="cp1252")
    assert source.parts[1].source == StorybookSource(stories=10)
    assert ReadingOptions().source(str(config)) == FilesSource(paths=(str(text),))


@pytest.mark.parametrize(
    ("content", "problem"),
    [("model: {}", "has no text: it has no section data.source"), ("kind: files", "The source in .* is not valid: ")],
)
def test_a_yaml_without_a_source_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(TextError, match=problem):
        ReadingOptions().source(str(path))


def test_words_with_an_equals_sign_are_settings() -> None:
    assert split_words(["b.txt", "optimizer.lr=1e-3", "c.txt"]) == (("b.txt", "c.txt"), ("optimizer.lr=1e-3",))
    assert split_words(None) == ((), ())


@pytest.mark.parametrize(
    ("words", "split"),
    [
        (["a.txt", "b.txt", "seed=2"], ("a.txt", ("b.txt",), ("seed=2",))),
        (["seed=2", "a.txt", "b.txt"], ("a.txt", ("b.txt",), ("seed=2",))),
        (["optimizer.lr=1e-3", "seed=2"], ("", (), ("optimizer.lr=1e-3", "seed=2"))),
        (["hub:a/b", "optimizer.lr=1e-3"], ("hub:a/b", (), ("optimizer.lr=1e-3",))),
        (["x=y.txt"], ("x=y.txt", (), ())),
        ([""], ("", (), ())),
    ],
)
def test_a_setting_is_a_setting_also_as_the_first_word(
    words: list[str], split: tuple[str, tuple[str, ...], tuple[str, ...]], tmp_path: Path
) -> None:
    assert split_first(words[0], words[1:]) == split
    named = tmp_path / "model.dim=3"
    named.write_text("a text")
    assert split_first(str(named), []) == (str(named), (), ())


def test_a_command_with_settings_only_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "batch-size", "tune", "compare-architectures"):
        assert main.run([command, "optimizer.lr=1e-3"]) == 2
        assert "optimizer.lr=1e-3 is a setting; what it changes is missing." in capsys.readouterr().err
    assert main.run(["train", "--data", "a.txt", "optimizer.lr=1e-3"]) == 2
    assert "Name it first: fabella train a.txt" in capsys.readouterr().err


def test_options_that_no_source_has_become_settings_of_the_config() -> None:
    assert ReadingOptions().settings() == ()
    assert ReadingOptions(decode_errors="skip", max_bad_lines=3).settings() == (
        "data.decode_errors=skip",
        "data.max_bad_lines=3",
    )


def test_a_tokenizer_is_trained_with_the_text_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.csv"
    text.write_bytes(b"title,story\n" + b"".join(b"x,a tale of a fox %d\n" % n for n in range(50)) + b"x,caf\xe9\n")
    command = ["tokenizer", "train", str(text), "--tokenizer", "bpe:270", "--column", "story", "--json"]
    assert main.run([*command, "--out", str(tmp_path / "strict")]) == 3
    assert main.run([*command, "--out", str(tmp_path / "out"), "--decode-errors", "skip"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "out")
