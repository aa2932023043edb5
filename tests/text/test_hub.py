"""Tests of hub datasets with the real loading code, on a fake ``datasets`` library with the same interface."""

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fabella.config.data import HubSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.hub import documents

TINY = HubSource(name="roneneldan/TinyStories", subset="en", split="validation", revision="abc", streaming=False)
ROWS = [{"id": 1, "text": "One fox.\r\n"}, {"id": 2, "text": "Two foxes."}, {"id": 3, "text": None}]


class Rows:
    """Result of ``load_dataset``, streaming or not: iterable rows with column names."""

    def __init__(self, rows: list[dict[str, Any]], fails_at: int = -1, error: Exception | None = None) -> None:
        self.rows, self.fails_at, self.error = rows, fails_at, error
        self.column_names = list(rows[0]) if rows else None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for number, row in enumerate(self.rows):
            if number == self.fails_at and self.error:
                raise self.error
            yield row

    def select_columns(self, names: list[str]) -> "Rows":
        return Rows([{name: row[name] for name in names} for row in self.rows])


class DatasetsError(Exception):
    """Base of the errors of the library."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Fake library; ``arguments`` are the arguments of its call, ``answer`` is its result."""
    module = ModuleType("datasets")
    fake = SimpleNamespace(arguments=None, answer=Rows(ROWS))

    def load_dataset(*arguments: Any, **options: Any) -> Rows:
        fake.arguments = (arguments, options)
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return fake.answer

    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    monkeypatch.setattr(module, "exceptions", SimpleNamespace(DatasetsError=DatasetsError), raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return fake


def test_every_part_of_the_name_is_requested(library: SimpleNamespace) -> None:
    list(documents(TINY, DecodePolicy()))
    assert library.arguments == (
        ("roneneldan/TinyStories", "en"),
        {"split": "validation", "revision": "abc", "streaming": False},
    )
    list(documents(HubSource(name="tiny"), DecodePolicy()))
    assert library.arguments == (("tiny", None), {"split": "train", "revision": None, "streaming": True})


def test_each_rows_text_is_a_document(library: SimpleNamespace) -> None:
    policy = DecodePolicy()
    assert list(documents(TINY, policy)) == ["One fox.\n", "Two foxes."]
    assert policy.notes.empty == 1
    assert "detected text column of roneneldan/TinyStories: text (2 documents)" in policy.notes.messages()


def test_a_named_column_is_the_only_one_read(library: SimpleNamespace) -> None:
    class Picture:
        """Fail: the column must not be decoded."""

    library.answer = Rows([{"story": "One.", "picture": Picture()}])
    assert list(documents(HubSource(name="tiny", column="story"), DecodePolicy())) == ["One."]


def test_an_unknown_column_is_an_error(library: SimpleNamespace) -> None:
    with pytest.raises(TextError, match=r"tiny has no column 'txt'\. Did you mean 'text'\?"):
        list(documents(HubSource(name="tiny", column="txt"), DecodePolicy()))


def test_a_row_without_text_is_a_bad_line(library: SimpleNamespace) -> None:
    library.answer = Rows([{"text": "One."}, {"text": 2}])
    with pytest.raises(TextError, match="tiny, row 2: 'text' is a int, not text"):
        list(documents(HubSource(name="tiny"), DecodePolicy()))
    assert list(documents(HubSource(name="tiny"), DecodePolicy(max_bad_lines=1))) == ["One."]


def test_damage_is_handled_by_the_policy(library: SimpleNamespace) -> None:
    library.answer = Rows([{"text": "half \ud83e a fox"}])
    with pytest.raises(TextError, match="tiny, row 1, in 'text': a lone surrogate"):
        list(documents(HubSource(name="tiny"), DecodePolicy()))


def test_a_hub_dataset_without_rows_has_no_documents(library: SimpleNamespace) -> None:
    library.answer = Rows([])
    assert list(documents(TINY, DecodePolicy())) == []


FETCH = "download it (hf download --repo-type dataset roneneldan/TinyStories)"


@pytest.mark.parametrize(
    ("error", "problem", "fix"),
    [
        (
            ConnectionError("Couldn't reach 'roneneldan/TinyStories' on the Hub (LocalEntryNotFoundError)"),
            "Cannot reach the hub for roneneldan/TinyStories: Couldn't reach",
            FETCH,
        ),
        (
            FileNotFoundError("Dataset 'x' doesn't exist"),
            "Cannot find dataset roneneldan/TinyStories on the hub",
            FETCH,
        ),
        (
            ValueError("Bad split: validation. Available splits: ['train']\nand more"),
            "hub dataset roneneldan/TinyStories, subset en, split validation, revision abc: "
            "Bad split: validation. Available splits: ['train'].",
            "Write it as hub:OWNER/NAME@SUBSET:SPLIT.",
        ),
        (DatasetsError("corrupt"), "Cannot read hub dataset roneneldan/TinyStories", FETCH),
        (TimeoutError(), "revision abc: TimeoutError.", FETCH),
    ],
)
@pytest.mark.parametrize("while_reading", [False, True])
def test_hub_errors_are_explained(
    library: SimpleNamespace, error: Exception, problem: str, fix: str, while_reading: bool
) -> None:
    library.answer = Rows(ROWS, fails_at=1, error=error) if while_reading else error
    with pytest.raises(TextError) as caught:
        list(documents(TINY, DecodePolicy()))
    assert problem in caught.value.message
    assert fix in caught.value.hint


def test_errors_of_the_http_library_are_explained_too(
    library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HTTPError(Exception):
        pass

    monkeypatch.setitem(sys.modules, "httpx", SimpleNamespace(HTTPError=HTTPError))
    library.answer = HTTPError("timed out")
    with pytest.raises(TextError, match=r"Cannot read hub dataset .*: timed out"):
        list(documents(TINY, DecodePolicy()))


def test_the_hub_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextError, match=r"Reading from the hub needs datasets\. pip install 'fabella\[hub\]'"):
        list(documents(TINY, DecodePolicy()))
