"""Messages in rows of their own are joined to the conversations that they are parts of, whatever the file format."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.config.data import HubSource
from fabella.text import hub
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.reader import reader_for
from fabella.text.tables import threads
from fabella.text.tables.threads import find_thread

Rows = list[dict[str, Any]]
DIALOG: Rows = [
    {"dialogue_id": n // 3, "speaker": ("Ann", "Ben", "Ann")[n % 3], "text": f"This is sentence {n}."}
    for n in range(30)
]
DIALOGS = [f"Ann: This is sentence {n}.\n\nBen: This is sentence {n + 1}.\n\nAnn: This is sentence {n + 2}."
           for n in range(0, 30, 3)]  # fmt: skip


def tree(number: int) -> Rows:
    """Return a question with two answers, of which the second is ranked best and answered again."""
    rows = [("q", None, "prompter", ""), ("bad", "q", "assistant", 1), ("good", "q", "assistant", 0),
            ("more", "good", "prompter", ""), ("other", "bad", "prompter", "")]  # fmt: skip
    return [
        {"message_id": f"{number}{own}", "parent_id": parent and f"{number}{parent}", "message_tree_id": f"t{number}",
         "role": role, "rank": rank, "text": f"A {own} message in tree {number}."}
        for own, parent, role, rank in rows
    ]  # fmt: skip


def write_jsonl(rows: Rows, folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(rows: Rows, folder: Path) -> Path:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "rows.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


def write_parquet(rows: Rows, folder: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = folder / "rows.parquet"
    parquet.write_table(arrow.Table.from_pylist([{**row, "rank": str(row.get("rank"))} for row in rows]), path)
    return path


def read(path: Path, column: str = "auto") -> tuple[list[str], list[str]]:
    policy = DecodePolicy()
    return list(reader_for(path).read(path, ReadOptions(column=column), policy)), list(policy.notes.messages())


WRITERS = pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])


@WRITERS
def test_rows_of_a_dialog_are_one_document(write: Callable[[Rows, Path], Path], tmp_path: Path) -> None:
    documents, messages = read(write(DIALOG, tmp_path))
    assert documents == DIALOGS
    assert any(
        "with the same dialogue_id are one conversation (30 of 30 rows); --column text" in line for line in messages
    )
    assert read(tmp_path / write(DIALOG, tmp_path).name, "text")[0] == [row["text"] for row in DIALOG]


@WRITERS
def test_of_a_tree_of_messages_the_best_branch_is_read(write: Callable[[Rows, Path], Path], tmp_path: Path) -> None:
    documents, messages = read(write([row for number in range(9) for row in tree(number)], tmp_path))
    assert [document.count("message in tree") for document in documents] == [3] * 9
    assert all("A good message" in document and "bad" not in document for document in documents)
    assert any("of a tree of replies one branch (27 of 45 rows)" in line for line in messages)


@pytest.mark.parametrize("changed", ["an id for each row", "no speaker", "an empty speaker", "lists as ids"])
def test_other_rows_are_documents_of_their_own(changed: str) -> None:
    rows = [dict(row) for row in DIALOG]
    for number, row in enumerate(rows):
        match changed:
            case "an id for each row":
                row["dialogue_id"] = number
            case "no speaker":
                del row["speaker"]
            case "an empty speaker":
                row["speaker"] = ""
            case _:
                row["dialogue_id"] = [row["dialogue_id"]]
    assert find_thread(DIALOG)
    assert find_thread(rows) is None


def test_a_circle_of_replies_ends(tmp_path: Path) -> None:
    rows = [{**row, "parent_id": "0more"} if row["message_id"] == "0q" else row for row in tree(0) + tree(1)]
    documents, _ = read(write_jsonl(rows, tmp_path))
    assert [document.count("message in tree") for document in documents] == [4, 3]  # the first begins with any message


def test_rows_of_the_hub_that_belong_together_are_reported() -> None:
    policy = DecodePolicy()
    hub.column_of(HubSource(name="owner/dialogs"), DIALOG, policy)
    assert any("rows with the same dialogue_id are one conversation" in line for line in policy.notes.messages())


def test_rows_without_a_text_are_counted_and_long_conversations_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MOST_MESSAGES", 4)
    rows = [{**row, "dialogue_id": number // 10} for number, row in enumerate(DIALOG)]
    rows[5]["text"] = ""
    documents, messages = read(write_jsonl(rows, tmp_path))
    assert [document.count("sentence") for document in documents] == [4, 3, 2, 4, 4, 2, 4, 4, 2]
    assert any("(29 of 30 rows)" in line for line in messages)
