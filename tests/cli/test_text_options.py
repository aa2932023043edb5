"""Tests that all commands that read text have the same options, which other sources refuse."""

import json
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.cli.text_options import decode_errors_of, read_source, text_overrides
from fabella.config.data import FilesSource, HubSource, StorybookSource
from fabella.errors import UsageError

COMMANDS = [["prepare"], ["check-data"], ["tokenizer", "train"], ["tokenizer", "compare"], ["train"], ["evaluate"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_reads_text_has_the_text_options(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main.run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--separator", "--column", "--decode-errors"))


def test_options_are_set_on_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    assert read_source(str(path), "lines", "auto") == FilesSource(paths=(str(path),), separator="lines")
    assert read_source("hub:tiny", "auto", "story") == HubSource(name="tiny", column="story")
    assert read_source("storybook", "auto", "auto") == StorybookSource()


def test_options_that_a_source_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match="--separator is only for text files, not for hub dataset tiny"):
        read_source("hub:tiny", "lines", "auto")
    with pytest.raises(UsageError, match="--column is only for files and hub datasets, not for storybook"):
        read_source("storybook", "auto", "story")
    with pytest.raises(UsageError, match=r"Unknown --decode-errors 'ignore'\. Use strict, replace or skip"):
        decode_errors_of("ignore")


def test_options_become_settings_of_the_config() -> None:
    assert text_overrides("auto", "auto", "", validation=True) == ()
    assert text_overrides("###", "auto", "skip", validation=False) == (
        'data.source.separator="###"',
        "data.decode_errors=skip",
    )
    assert text_overrides("auto", "story", "", validation=True) == (
        'data.source.column="story"',
        'data.validation.source.column="story"',
    )


def test_a_tokenizer_is_trained_with_the_text_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.csv"
    text.write_bytes(b"title,story\n" + b"".join(b"x,a tale of a fox %d\n" % n for n in range(50)) + b"x,caf\xe9\n")
    command = ["tokenizer", "train", str(text), "--tokenizer", "bpe:270", "--column", "story", "--json"]
    assert main.run([*command, "--out", str(tmp_path / "strict")]) == 3
    assert main.run([*command, "--out", str(tmp_path / "out"), "--decode-errors", "skip"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "out")
