"""Tests of ``fabella perplexity``: a table, one JSON object, and error messages."""

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


def run_perplexity(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``fabella perplexity …``."""
    code = fabella(["perplexity", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_table_has_a_row_per_token_and_a_summary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_perplexity(capsys, folder, "a\té")
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
    assert lines[8] == (
        "Rule story-32: the EOS token precedes the text, as in training; the EOS token after it is not scored."
    )


def test_json_has_every_token_and_consistent_totals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_perplexity(capsys, folder, STORY, "--json", "--checkpoint", "latest")
    value = json.loads(out)
    table = value.pop("table")
    assert (code, err) == (0, "")
    assert [row["id"] for row in table] == list(STORY.encode())
    assert set(table[0]) == {"token", "id", "probability", "nats", "perplexity"}
    total = sum(row["nats"] for row in table)
    assert value["nats_per_token"] == pytest.approx(total / len(table))
    assert value["perplexity"] == pytest.approx(math.exp(total / len(table)))
    assert value["bits_per_byte"] == pytest.approx(total / math.log(2) / len(STORY.encode()))
    assert {name: value[name] for name in ("step", "tokens", "bytes", "sequences")} == {
        "step": 20,
        "tokens": len(STORY.encode()),
        "bytes": len(STORY.encode()),
        "sequences": 2,
    }


def test_a_file_and_standard_input_are_scored_like_the_argument(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = run_perplexity(capsys, folder, STORY.replace("\n", "\r\n"), "--json")
    file = tmp_path / "story.txt"
    file.write_bytes(STORY.replace("\n", "\r\n").encode())
    assert run_perplexity(capsys, folder, "--file", file, "--json") == given
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert run_perplexity(capsys, folder, "--file", "-", "--json") == given


def test_a_long_text_reports_its_sequences_and_hidden_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_perplexity(capsys, folder, "a" * 100, "--max-rows", "3")
    assert len([line for line in out.splitlines() if line.startswith("'a'")]) == 3
    assert "… and 97 more tokens (--max-rows 100 shows all)" in out
    assert "The text exceeds the context: it was scored in 6 sequences that overlap by half." in out
    assert run_perplexity(capsys, folder, "abc", "--max-rows", "0")[1].startswith("… and 3 more tokens")


def test_control_characters_of_a_text_are_escaped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_perplexity(capsys, folder, "\x1b[2J\x07")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert r"'\x1b'" in out


@pytest.mark.parametrize("words", [[], ["Once", "--file", "story.txt"]])
def test_exactly_one_text_is_required(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_perplexity(capsys, folder, *words)
    assert (code, out) == (2, "")
    assert err == "fabella: Expected one text. Give it in quotes, or with --file, but not both.\n"


def test_an_unreadable_file_is_reported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_perplexity(capsys, folder, "--file", tmp_path / "none.txt")
    assert code == 3
    assert "none.txt: No such file or directory. Give a text file, or - for standard input." in err
    code, _, err = run_perplexity(capsys, folder, "--file", tmp_path)
    assert (code, "Is a directory" in err) == (3, True)
    (tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    code, _, err = run_perplexity(capsys, folder, "--file", tmp_path / "latin.txt")
    assert code == 3
    assert "latin.txt, byte 3: 0xEB after 'Zo' is not UTF-8." in err
    assert run_perplexity(capsys, folder, "--file", tmp_path / "latin.txt", "--encoding", "latin1")[0] == 0
    assert run_perplexity(capsys, folder, "--file", tmp_path / "latin.txt", "--decode-errors", "replace")[0] == 0


def test_the_documents_of_a_table_are_scored_one_by_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.jsonl"
    table.write_text("".join(json.dumps({"story": story}) + "\n" for story in ("Once a fox.", "The end.", "More.")))
    code, out, _ = run_perplexity(capsys, folder, "--file", table, "--column", "story", "--limit", "2", "--json")
    value = json.loads(out)
    assert (code, value["documents"], value["bytes"], len(value["table"])) == (0, 2, 19, 2)
    single = json.loads(run_perplexity(capsys, folder, "Once a fox.", "--json")[1])
    assert value["table"][0]["bits_per_byte"] == single["bits_per_byte"]
    shown = run_perplexity(capsys, folder, "--file", table, "--max-rows", "1")[1]
    assert "3 documents" in shown
    assert "… and 2 more documents (--max-rows 3 shows all)" in shown


def test_an_option_without_effect_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = tmp_path / "story.txt"
    story.write_text(STORY)
    assert run_perplexity(capsys, folder, "--file", story, "--limit", "2")[0] == 2
    assert run_perplexity(capsys, folder, STORY, "--encoding", "latin1")[0] == 2


def test_an_empty_text_is_rejected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_perplexity(capsys, folder, "")
    assert code == 3
    assert err == "fabella: The text has no token to predict. Give at least a few words.\n"


def test_a_missing_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_perplexity(capsys, tmp_path / "nothing", "Once")
    assert code == 4
    assert "No run directory at" in err
