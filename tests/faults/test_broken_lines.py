"""Tests that a randomly damaged line of a .jsonl or .csv file is a document, or an error that names the line.

Row B5 of the fault matrix.
"""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.read_report import ReadReport
from fabella.text.source import documents

CASES = 2000  # three quarters .jsonl, one quarter .csv

values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()  # also NaN and infinity, which JSON lacks
    | st.integers()
    | st.integers(4, 5000).map(lambda digits: 10**digits)
    | st.text(st.characters(blacklist_categories=())),  # lone surrogates too
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", ""]), inner, max_size=3),
    max_leaves=5,
)


def encoded(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # Python refuses to print integers of more than 4,300 digits, but others do not
        return b'{"text": "x", "id": 1' + b"0" * 5000 + b"}"


objects = st.dictionaries(st.sampled_from(["text", "id", "title"]), values, max_size=3).map(encoded)
nested = st.tuples(st.sampled_from([b"[", b'{"a":']), st.sampled_from([100, 100_000])).map(
    lambda how: b'{"text": "x", "deep": ' + how[0] * how[1]
)
duplicate_keys = st.sampled_from([b'{"text": "a", "text": "b"}', b'{"text": "a", "id": {"b": 1, "b": 2}}'])
noise = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b" "))
json_line = (
    objects | nested | duplicate_keys | noise | st.sampled_from([b"null", b"[]", b'"text"', b"7", b"{}", b"{", b""])
)


@st.composite
def corrupt_line(draw: st.DrawFn, lines: st.SearchStrategy[bytes]) -> bytes:
    """Generate a line that is intact, truncated, or has one byte changed."""
    line = bytearray(draw(lines))
    change = draw(st.sampled_from(["none", "none", "cut", "flip"]))
    if line and change == "cut":
        del line[draw(st.integers(0, len(line) - 1)) :]
    elif line and change == "flip":
        line[draw(st.integers(0, len(line) - 1))] = draw(st.integers(0, 255))
    return bytes(line)


field = st.text(st.sampled_from('ab,;"\r\n\0 é'), max_size=8).map(str.encode) | noise
csv_line = st.lists(field, max_size=4).map(b",".join)


def check_outcome(path: Path, first: bytes, lines: list[bytes], max_bad_lines: int) -> None:
    """Check that the file is read or refused with a TextError; any other exception fails the test."""
    path.write_bytes(b"\n".join([first, *lines, b""]))
    source = FilesSource(paths=(str(path),), column="text")
    notes = ReadReport()
    found: list[str] = []
    error: TextError | None = None
    try:
        found.extend(documents(source, decode_errors="replace", max_bad_lines=max_bad_lines, notes=notes))
    except TextError as raised:
        error = raised
    if error:
        # An error without a line number is about the file as a whole: it has control bytes, or is one JSON list.
        assert "line" in error.message or "is not text" in error.message, error
        assert error.hint
        return
    assert notes.bad_lines <= max_bad_lines
    assert notes.documents == len(found)
    assert all(text.encode().decode() == text for text in found)


def check_outcomes(name: str, first: bytes, line: st.SearchStrategy[bytes], cases: int, tmp_path: Path) -> None:
    @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
    @given(st.lists(corrupt_line(line), min_size=1, max_size=4), st.sampled_from([0, 1, 10**9]))
    def check(lines: list[bytes], max_bad_lines: int) -> None:
        check_outcome(tmp_path / name, first, lines, max_bad_lines)

    check()


@pytest.mark.fault("B5", cases=CASES * 3 // 4)
def test_broken_jsonl_lines_are_named_or_skipped(tmp_path: Path) -> None:
    check_outcomes("a.jsonl", b'{"text": "fine", "id": 1}', json_line, CASES * 3 // 4, tmp_path)


@pytest.mark.fault("B5", cases=CASES // 4)
def test_broken_csv_lines_are_named_or_skipped(tmp_path: Path) -> None:
    check_outcomes("a.csv", b"id,text\n1,fine", csv_line, CASES // 4, tmp_path)
