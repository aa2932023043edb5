"""``fabella check-data`` as it is typed."""

import json
from pathlib import Path

import pytest

from fabella.cli import main


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("".join(f"Story {number} of the fox.\n<|endoftext|>\n" for number in range(500)) + "Caf\ufffd!\n")
    return path


def test_it_tells_people(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", str(stories), "--held-out", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert f"separator of {stories} guessed: <|endoftext|> (501 documents)" in err
    assert out.startswith("documents                 501 (")
    assert "warning: 1 of 501 documents hold U+FFFD" in out


def test_it_tells_programs_and_nothing_else(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", str(stories), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["source"] == str(stories)
    assert found["documents"] == 501
    assert found["damage"]["replacement_characters"] == 1
    assert found["warnings"] == ["1 of 501 documents hold U+FFFD, where a character was lost."]
    assert err == ""


def test_it_looks_at_damage_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\nbroken\n{"text": "caf\xe9"}\n')
    assert main.run(["check-data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["reading"]["documents"], found["reading"]["bad_lines"], found["reading"]["damaged"]) == (2, 1, 1)
    assert any(note.startswith(f"for example {path}, line 2: it is not JSON") for note in found["notes"])


def test_what_reading_mended_is_damage_and_no_character_that_was_lost_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "lost: \xef\xbf\xbd"}\n')
    assert main.run(["check-data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["damage"]["replacement_characters"] == 1
    assert found["warnings"][:2] == [
        "1 of 3 documents hold U+FFFD, where a character was lost.",
        "1 document is damaged: bytes that are no UTF-8, NUL, or half characters.",
    ]


def test_nothing_wrong_is_said_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", "storybook:300", "--held-out", "0.2"]) == 0
    assert capsys.readouterr().out.endswith("Nothing is wrong with this text.\n")


def test_what_it_says_is_held_out_is_what_preparing_holds_out(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["check-data", str(stories), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main.run(["prepare", str(stories), "--tokenizer", "bytes", "--out", str(tmp_path / "out"), "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert found["validation"]["documents"] == prepared["validation"]["documents"] > 10
    assert [note for note in found["notes"] if "held out" in note] == [
        note for note in prepared["notes"] if "held out" in note
    ]


def test_a_single_document_is_held_out_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "novel.txt").write_text("Once upon a time there was a fox who told no end of stories. " * 200)
    assert main.run(["check-data", str(tmp_path / "novel.txt")]) == 0
    out, err = capsys.readouterr()
    assert "Nothing is held out" not in out
    assert "held out for validation: the last 10 % of the longest document" in err


def test_separator_and_column_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree")
    assert main.run(["check-data", str(tmp_path / "a.txt"), "--separator", "lines", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reading"]["documents"] == 3
    (tmp_path / "b.csv").write_text("text,title\nx,y\n")
    assert main.run(["check-data", str(tmp_path / "b.csv"), "--column", "titel"]) == 3
    assert "has no column 'titel'. Did you mean 'title'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["check-data", "nowhere.txt"], 3, "fabella: There is no file nowhere.txt."),
        (
            ["check-data", "storybook", "--separator", "lines"],
            2,
            "--separator means nothing for storybook (20,000",
        ),
        (["check-data", "storybook", "--column", "text"], 2, "--column means nothing for storybook"),
        (["check-data", "storybook", "--held-out", "2"], 2, "--held-out 2.0 is no share between 0 and 1. For"),
        (["check-data"], 2, "Missing argument"),
    ],
)
def test_mistakes_are_explained(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words) == code
    assert message in " ".join(capsys.readouterr().err.split())
