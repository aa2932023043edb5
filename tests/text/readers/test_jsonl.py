"""Tests that each JSON line is a document, or a broken line that is counted with its number."""

from collections.abc import Iterator

import pytest

from fabella.errors import TextError
from fabella.text.decode_policy import LONGEST_DOCUMENT, DecodePolicy, ReadOptions
from fabella.text.readers.jsonl import json_rows
from fabella.text.tables.rows import row_documents


def blocks(data: bytes) -> Iterator[bytes]:
    size = max(7, len(data) // 9)
    return (data[i : i + size] for i in range(0, len(data), size))


def jsonl(data: bytes, policy: DecodePolicy | None = None, column: str = "auto") -> list[str]:
    policy = policy or DecodePolicy()
    return list(
        row_documents(json_rows(blocks(data), "a.jsonl", policy), "a.jsonl", ReadOptions(column=column), policy)
    )


def test_each_objects_text_is_a_document() -> None:
    data = '{"id": 1, "text": "Einst, ein Fuchs."}\n\n{"text": "\\u0047r\\u00fc\\u00dfe\\n🦊", "id": 2}\n'.encode()
    assert jsonl(data) == ["Einst, ein Fuchs.", "Grüße\n🦊"]


def test_a_detected_column_is_reported() -> None:
    policy = DecodePolicy()
    jsonl(b'{"story": "one"}\n{"story": "two"}', policy)
    assert "detected text column of a.jsonl: story (2 documents)" in policy.notes.messages()


def test_a_named_column_is_not_reported_as_detected() -> None:
    policy = DecodePolicy()
    assert jsonl(b'{"story": "one", "title": "two"}', policy, "title") == ["two"]
    assert not list(policy.notes.messages())


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
        (b'{"text": [1]}', "'text' is a list, not text"),
        (b'{"text": "x", "text": "y"}', "it has the key 'text' twice"),
        (b'{"text": "x", "a": {"b": 1, "b": 2}}', "it has the key 'b' twice"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "it is not JSON .*digits"),
        (b'{"text": "x", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
    ],
)
def test_a_broken_line_fails_with_its_number_or_is_skipped(line: bytes, reason: str) -> None:
    data = b'{"text": "first"}\n' + line + b'\n{"text": "third"}\n'
    with pytest.raises(TextError, match=f"a.jsonl, line 2: {reason}"):
        jsonl(data)
    policy = DecodePolicy(max_bad_lines=1)
    assert jsonl(data, policy) == ["first", "third"]
    assert policy.notes.bad_lines == 1


def test_a_number_of_400_digits_in_another_key_is_ignored() -> None:
    assert jsonl(b'{"text": "x", "n": ' + b"9" * 400 + b"}") == ["x"]


def test_a_null_is_an_empty_document() -> None:
    policy = DecodePolicy()
    assert jsonl(b'{"text": "one"}\n{"text": null}\n{"text": "  "}', policy) == ["one"]
    assert (policy.notes.empty, policy.notes.bad_lines) == (2, 0)


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
def test_damage_within_the_text_is_handled_by_the_policy(damage: bytes) -> None:
    data = b'{"text": "one"}\n' + damage
    with pytest.raises(TextError, match=r"a\.jsonl, line 2, in 'text': "):
        jsonl(data)
    policy = DecodePolicy(decode_errors="skip")
    assert jsonl(data, policy) == ["one"]
    assert policy.notes.skipped == 1


def test_damage_in_another_key_is_ignored() -> None:
    assert jsonl(b'{"text": "one", "author": "Ren\xe9"}') == ["one"]


def test_a_pair_of_surrogates_is_the_character_it_spells() -> None:
    assert jsonl(rb'{"text": "\ud83e\udd8a"}') == ["🦊"]


def test_a_long_text_is_cut() -> None:
    policy = DecodePolicy()
    assert len(jsonl(b'{"text": "' + b"word " * (LONGEST_DOCUMENT // 4) + b'"}', policy)) == 2
    assert policy.notes.cut == 1


def test_an_empty_file_has_no_documents() -> None:
    assert jsonl(b"") == []
    assert jsonl(b"\n\n") == []


def test_a_row_over_16_mib_is_read_and_cut_like_any_long_text() -> None:
    policy = DecodePolicy()
    story = "One fox. " * 1_900_000
    parts = jsonl(b'{"text": "' + story.encode() + b'"}\n{"text": "The end."}\n', policy)
    assert "".join(parts[:-1]) == story
    assert max(map(len, parts)) <= LONGEST_DOCUMENT
    assert parts[-1] == "The end."
    assert "1 document longer than 1 MiB, cut into several" in policy.notes.messages()
