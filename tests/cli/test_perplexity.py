"""``fabella perplexity``: a table for people, one JSON object for programs, and errors in words."""

import io
import json
import math
import sys
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from tests.generation import tiny_run

STORY = "Once upon a time, Zoë saw a 🐉.\n\tThe end."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "tiny")


def measured(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``fabella perplexity …``."""
    code = fabella(["perplexity", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_table_has_a_line_for_every_token_and_the_figures_of_the_whole(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = measured(capsys, folder, "a\té")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["token", "id", "probability", "nats", "perplexity"]
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["'a'", "97"],
        ["'\\t'", "9"],
        ["'\\xc3'", "195"],
        ["'\\xa9'", "169"],
    ]
    nats = [float(line.split()[3]) for line in lines[1:5]]
    assert lines[5] == ""
    assert lines[6] == "4 tokens, 4 bytes"
    mean = sum(nats) / 4
    assert lines[7].startswith(f"{mean:.2f}"[:-1])
    assert "nats per token, perplexity" in lines[7]
    assert lines[7].endswith("bits per byte")
    assert lines[8] == "The text was read after the end-of-document id, as in training."


def test_json_holds_every_token_and_agrees_with_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = measured(capsys, folder, STORY, "--json", "--checkpoint", "latest")
    value = json.loads(out)
    table = value.pop("table")
    assert (code, err) == (0, "")
    assert [row["id"] for row in table] == list(STORY.encode())
    assert set(table[0]) == {"token", "id", "probability", "nats", "perplexity"}
    total = sum(row["nats"] for row in table)
    assert value["nats_per_token"] == pytest.approx(total / len(table))
    assert value["perplexity"] == pytest.approx(math.exp(total / len(table)))
    assert value["bits_per_byte"] == pytest.approx(total / math.log(2) / len(STORY.encode()))
    assert {name: value[name] for name in ("step", "tokens", "bytes", "windows")} == {
        "step": 20,
        "tokens": len(STORY.encode()),
        "bytes": len(STORY.encode()),
        "windows": 2,
    }


def test_a_file_and_standard_input_are_read_as_they_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = measured(capsys, folder, STORY.replace("\n", "\r\n"), "--json")
    file = tmp_path / "story.txt"
    file.write_bytes(STORY.replace("\n", "\r\n").encode())
    assert measured(capsys, folder, "--file", file, "--json") == given
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert measured(capsys, folder, "--file", "-", "--json") == given


def test_a_long_text_says_how_it_was_read_and_how_to_see_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = measured(capsys, folder, "a" * 100, "--rows", "3")
    assert len([line for line in out.splitlines() if line.startswith("'a'")]) == 3
    assert "… and 97 more tokens (--rows 100 shows all)" in out
    assert "Longer than the model looks back: read in 6 windows that overlap by half." in out
    assert measured(capsys, folder, "abc", "--rows", "0")[1].startswith("… and 3 more tokens")


def test_control_characters_of_a_text_are_shown_and_not_obeyed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = measured(capsys, folder, "\x1b[2J\x07")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert r"'\x1b'" in out


@pytest.mark.parametrize("words", [[], ["Once", "--file", "story.txt"]])
def test_one_text_is_needed_and_no_more(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = measured(capsys, folder, *words)
    assert (code, out) == (2, "")
    assert err == "fabella: One text is needed. Give it in quotes, or with --file: not both, and not neither.\n"


def test_a_file_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = measured(capsys, folder, "--file", tmp_path / "none.txt")
    assert code == 3
    assert "none.txt cannot be read: No such file or directory. Give a text file, or - for standard input." in err
    code, _, err = measured(capsys, folder, "--file", tmp_path)
    assert (code, "Is a directory" in err) == (3, True)
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    code, _, err = measured(capsys, folder, "--file", tmp_path / "latin.txt")
    assert code == 3
    assert "latin.txt is not UTF-8: byte 3 is 0xeb. Convert it: iconv -f latin1 -t utf-8" in err


def test_an_empty_text_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = measured(capsys, folder, "")
    assert code == 3
    assert err == "fabella: The text has no token to predict. Give at least a few words.\n"


def test_an_unknown_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = measured(capsys, tmp_path / "nothing", "Once")
    assert code == 4
    assert "There is no run folder" in err
