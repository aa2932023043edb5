"""Preview of the documents of a text: a few of them with their lengths, so that a wrong boundary is seen at once."""

from collections.abc import Iterator, Mapping
from typing import Any

from fabella.storage import escaped, format_bytes

BEGINNING, END = 60, 30
"""Characters shown of the beginning and of the end of a document."""


class Preview:
    """The first two documents and the last one of those added."""

    def __init__(self) -> None:
        self._first: list[dict[str, Any]] = []
        self._last: tuple[str, int, str | None] = "", 0, None
        self._documents = 0

    def add(self, text: str, size: int, learned: str | None = None) -> None:
        """Add the next document, its bytes of UTF-8, and the part that is learned; None for all of it."""
        self._documents += 1
        if len(self._first) < 2:
            self._first.append(_excerpt(text, size, learned, self._documents))
        else:
            self._last = text, size, learned

    def documents(self) -> list[dict[str, Any]]:
        """Return number, bytes, beginning and end of at most three documents."""
        if self._documents <= len(self._first):
            return self._first
        return [*self._first, _excerpt(*self._last, self._documents)]


def _excerpt(text: str, size: int, learned: str | None, number: int) -> dict[str, Any]:
    beginning = text[:BEGINNING]
    end = text[max(len(text) - END, BEGINNING) :] if len(text) > BEGINNING else ""
    only = {} if learned is None else {"learned": learned[: 2 * BEGINNING]}
    return {"number": number, "bytes": size, "beginning": beginning, "end": end, **only}


def format_preview(documents: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each document: its number, its length, and where it begins and ends."""
    for document in documents:
        gap = " … " if document["end"] else ""
        excerpt = f"{_one_line(document['beginning'])}{gap}{_one_line(document['end'])}"
        yield f"  document {document['number']:,} ({format_bytes(document['bytes'])}): {excerpt}"
        if "learned" in document:
            yield f"    learned: {_one_line(document['learned'])}"


def _one_line(text: str) -> str:
    return escaped(text.replace("\n", "⏎"))
