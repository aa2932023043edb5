"""Lines of .jsonl and .csv: each a document, or a counted broken line with its number."""

from collections.abc import Iterator

import pytest

from fabella.errors import TextError
from fabella.text.decode_policy import LONGEST_DOCUMENT, DecodePolicy
from fabella.text.readers import jsonl_csv
from fabella.text.readers.jsonl_csv import csv_rows, documents, json_rows, lines


def blocks(data: bytes, size: int = 0) -> Iterator[bytes]:
    size = size or max(7, len(data) // 9)
    return (data[i : i + size] for i in range(0, len(data), size))


def jsonl(data: bytes, reading: DecodePolicy | None = None, column: str = "auto") -> list[str]:
    reading = reading or DecodePolicy()
    return list(documents(json_rows(blocks(data), "a.jsonl", reading), "a.jsonl", column, reading))


def csv(data: bytes, reading: DecodePolicy | None = None, column: str = "auto") -> list[str]:
    reading = reading or DecodePolicy()
    return list(documents(csv_rows(blocks(data), "a.csv", reading), "a.csv", column, reading))


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_numbered_and_whole(size: int) -> None:
    found = list(lines(blocks(b"one\n\nthree\nfour", size), lambda *_: None))
    assert found == [(1, b"one"), (2, b""), (3, b"three"), (4, b"four")]


def test_a_line_that_is_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_csv, "LONGEST_LINE", 10)
    bad: list[tuple[int, str]] = []
    found = list(lines(blocks(b"one\n" + b"x" * 100 + b"\nthree"), lambda *line: bad.append(line)))
    assert found == [(1, b"one"), (3, b"three")]
    assert bad == [(2, "the line is longer than 10 bytes.")]


# ---------------------------------------------------------------- JSON lines


def test_each_objects_text_is_a_document() -> None:
    data = '{"id": 1, "text": "Einst, ein Fuchs."}\n\n{"text": "\\u0047r\\u00fc\\u00dfe\\n🦊", "id": 2}\n'.encode()
    assert jsonl(data) == ["Einst, ein Fuchs.", "Grüße\n🦊"]


def test_the_guessed_column_is_stated() -> None:
    reading = DecodePolicy()
    jsonl(b'{"story": "one"}\n{"story": "two"}', reading)
    assert "text column of a.jsonl guessed: story (2 documents)" in reading.notes.messages()


def test_a_named_column_is_not_called_a_guess() -> None:
    reading = DecodePolicy()
    assert jsonl(b'{"story": "one", "title": "two"}', reading, "title") == ["two"]
    assert not list(reading.notes.messages())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"', r"it is not JSON \(Expecting ',' delimiter"),
        (b"text", "it is not JSON"),
        (b'["text"]', "it is a JSON list, not an object"),
        (b"7", "it is a JSON int, not an object"),
        (b'{"story": "x"}', "it has no 'text'"),
        (b'{"text": 7}', "'text' is a int, not text"),
        (b'{"text": NaN}', "'text' is a float, not text"),
        (b'{"text": ["x"]}', "'text' is a list, not text"),
        (b'{"text": "x", "text": "y"}', "it has the key 'text' twice"),
        (b'{"text": "x", "a": {"b": 1, "b": 2}}', "it has the key 'b' twice"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "it is not JSON .*digits"),
        (b'{"text": "x", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
    ],
)
def test_a_broken_line_is_named_or_left_out(line: bytes, reason: str) -> None:
    data = b'{"text": "first"}\n' + line + b'\n{"text": "third"}\n'
    with pytest.raises(TextError, match=f"a.jsonl, line 2: {reason}"):
        jsonl(data)
    reading = DecodePolicy(max_bad_lines=1)
    assert jsonl(data, reading) == ["first", "third"]
    assert reading.notes.bad_lines == 1


def test_a_number_of_400_digits_beside_the_text_does_no_harm() -> None:
    assert jsonl(b'{"text": "x", "n": ' + b"9" * 400 + b"}") == ["x"]


def test_no_text_at_all_is_an_empty_document() -> None:
    reading = DecodePolicy()
    assert jsonl(b'{"text": "one"}\n{"text": null}\n{"text": "  "}', reading) == ["one"]
    assert (reading.notes.empty, reading.notes.bad_lines) == (2, 0)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"text": "caf\xe9"}',
        rb'{"text": "half \ud83e a fox"}',
        rb'{"text": "\udcc3\udca9"}',  # not the letter whose bytes these would be
        b'{"text": "\\ud83e caf\xe9"}',
        rb'{"text": "a\u0000b"}',
    ],
)
def test_damage_within_the_text_is_for_the_policy(damage: bytes) -> None:
    data = b'{"text": "one"}\n' + damage
    with pytest.raises(TextError, match=r"a\.jsonl, line 2, in 'text': "):
        jsonl(data)
    reading = DecodePolicy(invalid="skip")
    assert jsonl(data, reading) == ["one"]
    assert reading.notes.skipped == 1


def test_damage_beside_the_text_does_no_harm() -> None:
    assert jsonl(b'{"text": "one", "author": "Ren\xe9"}') == ["one"]


def test_a_pair_of_surrogates_is_the_character_it_spells() -> None:
    assert jsonl(rb'{"text": "\ud83e\udd8a"}') == ["🦊"]


def test_one_json_list_is_refused_with_the_way_to_convert_it() -> None:
    with pytest.raises(TextError, match=r"one JSON list, not an object a line\. Convert it: jq -c"):
        jsonl(b'[{"text": "one"},\n{"text": "two"}]')


def test_a_long_text_is_cut() -> None:
    reading = DecodePolicy()
    assert len(jsonl(b'{"text": "' + b"word " * (LONGEST_DOCUMENT // 4) + b'"}', reading)) == 2
    assert reading.notes.cut == 1


# ---------------------------------------------------------------- CSV


def test_each_rows_text_is_a_document() -> None:
    data = b'id,text\n1,"Once, a fox."\n2,"Said ""no""."\n\n3,"Two\nlines"\n'
    assert csv(data) == ["Once, a fox.", 'Said "no".', "Two\nlines"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_guessed_from_the_names_and_stated(delimiter: str) -> None:
    reading = DecodePolicy()
    assert csv(f'id{delimiter}text\n1{delimiter}"Once, a fox."\n'.encode(), reading) == ["Once, a fox."]
    assert f"columns of a.csv are separated by {delimiter!r}" in reading.notes.messages()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,two,three", "it has 3 fields, the first line names 2"),
        (b"1", "it has 1 fields, the first line names 2"),
        (b'1,"two"three', "it is not CSV"),
    ],
)
def test_a_broken_row_is_named_or_left_out(row: bytes, reason: str) -> None:
    data = b'id,text\n0,"first\nstory"\n' + row + b"\n2,third\n"
    with pytest.raises(TextError, match=f"a.csv, line 4: {reason}"):
        csv(data)
    reading = DecodePolicy(max_bad_lines=1)
    assert csv(data, reading) == ["first\nstory", "third"]
    assert reading.notes.bad_lines == 1


def test_a_quote_that_never_ends_is_named_by_its_beginning() -> None:
    with pytest.raises(TextError, match=r"a.csv, line 3: it is not CSV \(unexpected end of data\)"):
        csv(b'id,text\n0,fine\n1,"never\nends\n')


def test_a_file_without_names_is_refused() -> None:
    with pytest.raises(TextError, match=r"begins with text, not with the names of its columns\. Put a line"):
        csv(b"Once upon a time " * 10 + b"\nand so on\n")


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(TextError, match=r"a.csv has two columns named 'text'\. Rename one of them"):
        csv(b"text,text\na,b\n")


def test_a_first_line_that_is_no_csv_is_refused() -> None:
    with pytest.raises(TextError, match=r"a\.csv, line 1: it is not CSV"):
        csv(b'"text"x,b\n1,2\n')


def test_a_field_may_be_longer_than_csv_allows_by_itself() -> None:
    story = "word " * 50_000
    assert csv(f'text\n"{story}"\n'.encode()) == [story]


def test_damage_in_a_field_is_for_the_policy() -> None:
    with pytest.raises(TextError, match=r"a\.csv, line 3, in 'text': 0xE9 after 'caf' is not UTF-8"):
        csv(b"text\nfine\ncaf\xe9\n")


@pytest.mark.parametrize("read", [jsonl, csv])
def test_nothing_gives_nothing(read: object) -> None:
    assert callable(read)
    assert read(b"") == []
    assert read(b"\n\n") == []
