"""Evaluation sets as text sources: a file or a directory, of which the column that a model is scored on is read."""

import json

from fabella.config.data import FilesSource, Source
from fabella.text.paths import expand_paths
from fabella.text.source import parse_source

COLUMNS = ("sentence_good",)
"""Columns that decide over others: in BLiMP, the sentence that a model should prefer."""


def evaluation_source(text: str) -> Source:
    """Return the source of an evaluation set, such as BLiMP, LAMBADA or a text. Raises TextError for a missing file."""
    source = parse_source(text)
    if not isinstance(source, FilesSource):
        return source
    first = next((path for path in expand_paths(source.paths, source.split) if path.suffix == ".jsonl"), None)
    if first is None:
        return source
    with first.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    try:
        row = json.loads(line)
    except ValueError:
        return source  # not a table, or a damaged one: reading it says so
    column = next((name for name in COLUMNS if isinstance(row, dict) and name in row), None)
    return source.model_copy(update={"column": column}) if column else source
