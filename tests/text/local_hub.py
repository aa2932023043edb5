"""A hub without a network: a fake module ``datasets`` in a directory, which reads ``NAME/*.jsonl`` next to it.

It keeps the interface of the library, positions of streamed rows included, and can be made to break.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

MODULE = '''
import json
from pathlib import Path
from types import SimpleNamespace


class DatasetsError(Exception):
    """Base of the errors of the library."""


exceptions = SimpleNamespace(DatasetsError=DatasetsError)
HERE = Path(__file__).parent


def load_dataset(name, subset, *, split, revision, streaming):
    if not (HERE / name).is_dir():
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (LocalEntryNotFoundError)")
    return Streamed(name, None) if streaming else Downloaded(list(Streamed(name, None)))


class Streamed:
    def __init__(self, name, columns):
        self.name, self.columns = name, columns
        self.position = {"shard": 0, "row": 0}
        self.begin = dict(self.position)
        self.began = "anew"
        self.column_names = None

    def select_columns(self, columns):
        return Streamed(self.name, columns)

    def state_dict(self):
        return {**self.position, "began": self.began}  # as in the library, a place has more than one spelling

    def load_state_dict(self, state):
        self.position = {"shard": state["shard"], "row": state["row"]}
        self.begin = dict(self.position)
        self.began = f"at {state['shard']}, {state['row']}"

    def __iter__(self):
        shards = sorted((HERE / self.name).glob("*.jsonl"))
        self.position = dict(self.begin)
        for number in range(self.begin["shard"], len(shards)):
            for line in shards[number].read_text().splitlines()[self.position["row"]:]:
                self.break_down(number)
                self.position["row"] += 1
                row = json.loads(line)
                yield {name: row[name] for name in self.columns or row}
            self.position = {"shard": number + 1, "row": 0}

    def break_down(self, shard):
        plan = HERE / "breaks.json"
        if not plan.exists():
            return
        breaks = json.loads(plan.read_text())
        here = [shard, self.position["row"]]
        if here in breaks:
            breaks.remove(here)
            plan.write_text(json.dumps(breaks))
            raise ConnectionError("Server Disconnected")


class Downloaded:
    def __init__(self, rows):
        self.rows = rows
        self.column_names = list(rows[0]) if rows else None

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def select(self, indices):
        return Downloaded([self.rows[index] for index in indices])

    def select_columns(self, columns):
        return Downloaded([{name: row[name] for name in columns} for row in self.rows])
'''


class LocalHub:
    """Datasets in a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, shards: Sequence[Sequence[str]]) -> None:
        """Write a dataset of some files of texts."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        for number, texts in enumerate(shards):
            rows = [json.dumps({"id": row, "text": text}) for row, text in enumerate(texts)]
            (self.folder / name / f"{number:05d}.jsonl").write_text("\n".join(rows) + "\n")

    def break_at(self, *places: tuple[int, int]) -> None:
        """Break the connection before these rows (file, row), once for each time that a row is named."""
        (self.folder / "breaks.json").write_text(json.dumps(places))


def installed(folder: Path, patch: pytest.MonkeyPatch) -> LocalHub:
    """Replace the library, also in child processes."""
    (folder / "datasets.py").write_text(MODULE)
    patch.delitem(sys.modules, "datasets", raising=False)
    patch.syspath_prepend(folder)
    return LocalHub(folder)
