"""Minimal pairs of BLiMP (Warstadt et al. 2020, arXiv 1912.00582), from files that the user gives.

One file a paradigm, ``NAME.jsonl``, with ``sentence_good``, ``sentence_bad`` and ``field`` in each line, as in
github.com/alexwarstadt/blimp.
"""

import json
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.evaluation.exam.story_items import ExamItem
from fabella.storage.messages import escaped_path

PAIRS = 20
"""Pairs of each paradigm: 1,340 of all 67, spread evenly over its 1,000."""
KEYS = ("sentence_good", "sentence_bad", "field")


def blimp_items(folder: Path, pairs: int = PAIRS) -> dict[str, list[ExamItem]]:
    """Return the pairs by their field of linguistics: morphology, semantics, syntax, syntax_semantics.

    ``folder`` has the files, or a directory ``data`` with them. Raises TextError if it has none, or a damaged line.
    """
    files = sorted(folder.glob("*.jsonl")) or sorted((folder / "data").glob("*.jsonl"))
    if not files:
        raise TextError(
            f"{escaped_path(folder)} has no .jsonl file of BLiMP.",
            hint="Unpack github.com/alexwarstadt/blimp, and give its directory data: --blimp DIRECTORY",
        )
    items: dict[str, list[ExamItem]] = {}
    for file in files:
        rows = file.read_text(encoding="utf-8").splitlines()
        count = min(pairs, len(rows))
        for number in (len(rows) * place // count for place in range(count)):
            row = _row(file, number, rows[number])
            choices = (row["sentence_good"], row["sentence_bad"])
            # One field is written in two ways.
            items.setdefault(row["field"].replace("/", "_"), []).append(ExamItem("", choices))
    return dict(sorted(items.items()))


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in KEYS):
        raise TextError(
            f"{escaped_path(file)}, line {number + 1}, is no pair of BLiMP: it needs {', '.join(KEYS)}.",
            hint="Get the file again, or remove it from the directory.",
        )
    return row
