"""Tests of the command ``fabella check-data``."""

import json
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.training.setup.request import TrainRequest, resolve_request


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("".join(f"Story {number} of the fox.\n<|endoftext|>\n" for number in range(500)) + "Caf\ufffd!\n")
    return path


def test_the_report_is_readable_text(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", str(stories), "--held-out", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert f"detected separator of {stories}: <|endoftext|> (501 documents)" in err
    assert out.startswith("documents                 501 (")
    assert "warning: 1 of 501 documents contain U+FFFD" in out


def test_json_output_is_one_object_and_nothing_else(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", str(stories), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["source"] == str(stories)
    assert result["documents"] == 501
    assert result["damage"]["replacement_characters"] == 1
    assert result["warnings"] == ["1 of 501 documents contain U+FFFD, where a character was lost."]
    assert err == ""


def test_damage_is_counted_to_the_end_of_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\nbroken\n{"text": "caf\xe9"}\n')
    assert main.run(["check-data", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["reading"]["documents"], result["reading"]["bad_lines"], result["reading"]["damaged"]) == (2, 1, 1)
    assert any(note.startswith(f"for example {path}, line 2: it is not JSON") for note in result["notes"])


def test_replaced_damage_is_not_counted_as_characters_lost_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "lost: \xef\xbf\xbd"}\n')
    assert main.run(["check-data", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["damage"]["replacement_characters"] == 1
    assert result["warnings"][:2] == [
        "1 of 3 documents contain U+FFFD, where a character was lost.",
        "1 document is damaged: invalid UTF-8, NUL, or lone surrogates.",
    ]


def test_a_sound_text_is_reported_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", "storybook:300", "--held-out", "0.2"]) == 0
    assert capsys.readouterr().out.endswith("No problems found.\n")


def test_the_reported_holdout_equals_that_of_prepare(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["check-data", str(stories), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main.run(["prepare", str(stories), "--tokenizer", "bytes", "--out", str(tmp_path / "out"), "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert result["validation"]["documents"] == prepared["validation"]["documents"] > 10
    assert [note for note in result["notes"] if "held out" in note] == [
        note for note in prepared["notes"] if "held out" in note
    ]


def test_part_of_a_single_document_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "novel.txt").write_text("Once upon a time there was a fox who told no end of stories. " * 200)
    assert main.run(["check-data", str(tmp_path / "novel.txt")]) == 0
    out, err = capsys.readouterr()
    assert "No documents are held out" not in out
    assert "held out for validation: the last 10 % of the document" in err


def test_separator_and_column_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree")
    assert main.run(["check-data", str(tmp_path / "a.txt"), "--separator", "lines", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reading"]["documents"] == 3
    (tmp_path / "b.csv").write_text("text,title\nx,y\n")
    assert main.run(["check-data", str(tmp_path / "b.csv"), "--column", "titel"]) == 3
    assert "has no column 'titel'. Did you mean 'title'?" in capsys.readouterr().err


ENCODED = {
    "latin-1": ("Le café noir est là.\n", "It may be cp1252, where it reads", "or cp1250, where it reads"),
    "cp1252": ("It\u2019s late — “run”\n", "It may be cp1252, where it reads", ""),
    "cp1251": ("Лиса\n", "It may be cp1251, where it reads 'Лиса'", "or tis-620, where it reads"),
    "shift_jis": ("むかし\n", "It may be cp932, where it reads 'むかし'", ""),
}
"""Encoding → a short text, what is said about its encoding, and about the runner-up."""


@pytest.mark.parametrize("encoding", ENCODED)
def test_an_uncertain_encoding_is_shown_with_the_runner_up_and_chosen_by_the_option(
    encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, likely, other = ENCODED[encoding]
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert main.run(["check-data", str(path)]) == 0
    printed = capsys.readouterr().err
    assert f"{path} is not UTF-8. {likely}" in printed
    assert (other in printed) if other else (", or " not in printed)
    assert main.run(["check-data", str(path), "--encoding", encoding, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["damage"]["replacement_characters"] == result["reading"]["damaged"] == 0


@pytest.mark.fault("I7", cases=1)
def test_a_call_of_a_tool_that_the_chat_template_leaves_out_is_reported_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "user", "content": "How warm is it?"}, {"role": "assistant", "content": "It is warm."}]
    call = [chat[0], {**chat[1], "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in (chat, call, chat)))
    assert main.run(["check-data", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["reading"]["documents"], result["reading"]["bad_lines"]) == (2, 1)
    reason = "the chat template 'plain' does not write the tool_calls of message 2 (role assistant)."
    assert any(note.startswith(f"for example {path}, line 2: {reason}") for note in result["notes"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check-data", "nowhere.txt"], 3, "fabella: There is no file nowhere.txt."),
        (
            ["check-data", "storybook", "--separator", "lines"],
            2,
            "--separator is only for text files, not for storybook (20,000",
        ),
        (
            ["check-data", "storybook", "--column", "text"],
            2,
            "--column is only for files and hub datasets, not for storybook",
        ),
        (["check-data", "storybook", "--held-out", "2"], 2, "--held-out must be between 0 and 1, not 2. For"),
        (["check-data"], 2, "Missing argument"),
    ],
)
def test_usage_errors_are_explained(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_duplicates_and_overlap_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [" ".join(f"word{number}{place}" for place in range(40)) for number in range(30)]
    (tmp_path / "a.txt").write_text("\n".join([*texts, texts[3], texts[4] + " more"]))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": texts[7]}) + "\n" + json.dumps({"text": "new " * 20}))
    command = ["check-data", str(tmp_path / "a.txt"), "--separator", "lines", "--json"]
    assert main.run([*command, "--duplicates", "near", "--overlap", str(tmp_path / "b.jsonl")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["documents"] == 30
    (sentence,) = [note for note in result["notes"] if note.startswith("left out")]
    assert "1 exact and 1 near-duplicates" in sentence
    _, other = result["overlap_runs"]
    assert (other["documents"], other["overlapping"]) == (2, 1)
    assert other["examples"][0]["document"] == 1


def test_the_parts_of_a_mixture_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"Story {number} of a fox." for number in range(90)))
    (tmp_path / "mixture.yaml").write_text(
        f"kind: mixture\nparts:\n- {{weight: 3, source: {{kind: storybook, stories: 20}}}}\n"
        f"- {{weight: 1, source: {{kind: files, paths: [{tmp_path / 'a.txt'}]}}}}\n"
    )
    assert main.run(["check-data", str(tmp_path / "mixture.yaml"), "--json"]) == 0
    book, own = json.loads(capsys.readouterr().out)["parts"]
    assert (book["share"], own["share"]) == (0.75, 0.25)
    assert min(book["epochs"], own["epochs"]) < 1.0 == max(book["epochs"], own["epochs"])


@pytest.mark.parametrize("value", ["all", "near:2", "near:x", "exact:1"])
def test_an_unknown_way_to_treat_duplicates_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["check-data", "storybook:20", "--duplicates", value]) == 2
    assert "Use keep, exact, near, or near:0.7" in capsys.readouterr().err


def test_the_advice_is_what_train_would_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("small.txt", 3_000), ("large.txt", 150_000)):
        path = tmp_path / name
        path.write_text("".join(f"Story {number} of a fox and an owl.\n" for number in range(size // 30)))
        assert main.run(["check-data", str(path), "--json"]) == 0
        advice = json.loads(capsys.readouterr().out)["fabella_train"]
        reasons = resolve_request(TrainRequest(what=str(path), engine="torch", device="cpu")).reasons
        assert [sentence.partition(": ")[2] for sentence in advice] == [
            sentence.partition(": ")[2] for sentence in reasons
        ]
