"""JSON in any form gives the same rows, in blocks of any size."""

import json
from collections.abc import Iterator

import pytest

from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.readers.jsonl import json_rows

ROWS = [{"text": f"Story {number}, “fox” 🦊", "n": number} for number in range(40)]


def rows_of(text: str, size: int = 2**20) -> list[dict[str, object]]:
    data = text.encode()
    blocks: Iterator[bytes] = (data[i : i + size] for i in range(0, len(data), size))
    return [dict(row) for row in json_rows(blocks, "a.json", DecodePolicy())]


@pytest.mark.parametrize("size", [7, 1000, 2**20])
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({"data": ROWS}, indent=1),
        json.dumps({"text": [row["text"] for row in ROWS], "n": [row["n"] for row in ROWS]}),
        json.dumps({key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ("text", "n")}),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    ],
    ids=[
        "lines",
        "list",
        "pretty list",
        "pretty objects",
        "object",
        "pretty object",
        "columns",
        "pandas",
        "list lines",
    ],
)
def test_every_form_gives_the_same_rows(text: str, size: int) -> None:
    assert rows_of(text, size) == ROWS


@pytest.mark.parametrize("text", ['["One.", "Two."]', '"One."\n"Two."\n', '[\n "One.",\n "Two."\n]'])
def test_strings_are_documents(text: str) -> None:
    assert rows_of(text) == [{"text": "One."}, {"text": "Two."}]


def test_damage_in_a_list_has_its_line() -> None:
    with pytest.raises(TextError, match=r"a\.json, line 2: it is not JSON"):
        rows_of('[{"text": "One."},\n{"text": broken}]')
