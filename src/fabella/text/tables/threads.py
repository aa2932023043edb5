"""Conversations whose messages are rows of their own: rows with the same id that follow each other.

conversation_id, speaker, text                      a dialog
message_tree_id, message_id, parent_id, role, text  a tree of messages, of which one branch is read
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from typing import Any

from fabella.text.tables.conversation import CONTENT_KEYS, ROLE_KEYS
from fabella.text.tables.text_column import is_text, string_of

THREAD_NAMES = frozenset({
    "conversationid", "conversation", "convid", "dialogueid", "dialogid", "dialogue", "dialog", "threadid", "threadts",
    "sessionid", "chatid", "messagetreeid", "treeid", "episodeid", "conversationhash",
})  # fmt: skip
"""Names of the column that rows of one conversation share, in lower case and without signs."""
SPEAKER_NAMES = frozenset({*ROLE_KEYS, "speakerid", "user", "username", "name", "character", "actor"})
TEXT_NAMES = frozenset({*CONTENT_KEYS, "utterance", "line", "body"})
MOST_MESSAGES = 10_000
"""Rows of a conversation at most, so that memory stays bounded; more are read as several conversations."""
MESSAGES = "messages"
"""Column of the conversations that rows are joined to."""


@dataclass(frozen=True, slots=True)
class Thread:
    """The columns of messages in rows of their own."""

    key: str
    """Column that all messages of a conversation share"""
    speaker: str
    text: str
    id: str = ""
    """Column with the id of a message, if the messages are a tree"""
    parent: str = ""
    """Column with the id of the message that it replies to"""
    rank: str = ""
    """Column with the rank of a reply, from 0, the best"""

    def description(self, name: str, read: int, rows: int) -> str:
        """Return a sentence about what is read as a conversation, and how to read it otherwise."""
        branch = ", of a tree of replies one branch" if self.parent else ""
        return (
            f"rows of {name} with the same {self.key} are one conversation{branch} ({read:,} of {rows:,} rows); "
            f"--column {self.text} reads each row as a document"
        )

    def advice(self, name: str) -> str:
        """Return a sentence about rows of a hub dataset that are read as documents although they belong together."""
        return (
            f"each row of {name} is a document, although rows with the same {self.key} are one conversation; they are "
            f"joined when they are read from files (hf download --repo-type dataset {name})"
        )

    def conversations(self, rows: Iterator[Any]) -> Iterator[tuple[list[Any], int]]:
        """Yield (the rows of a conversation, of a tree those of one branch; the number of rows that they are from).

        Rows without a speaker or a text are left out.
        """
        for _, group in groupby(rows, key=lambda row: row.get(self.key)):
            while part := list(islice(group, MOST_MESSAGES)):
                messages = [row for row in part if _is_message(row, self)]
                yield self._branch(messages) if self.parent and messages else messages, len(part)

    def messages(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of a conversation as messages with a role and a content."""
        return [{"role": string_of(row[self.speaker]), "content": string_of(row[self.text])} for row in rows]

    def _branch(self, rows: list[Any]) -> list[Any]:
        """Return the branch of the best replies: by rank if there is one, else the first of each message."""
        replies: dict[Any, list[Any]] = {}
        for row in rows:
            replies.setdefault(row.get(self.parent) or None, []).append(row)
        ids = {row.get(self.id) for row in rows}
        branch: list[Any] = []
        following = [row for row in rows if row.get(self.parent) not in ids][:1] or rows[:1]
        while following:
            branch.append(min(following, key=self._rank_of))
            following = replies.pop(branch[-1].get(self.id), [])  # once: a damaged tree may have a circle
        return branch

    def _rank_of(self, row: Mapping[str, Any]) -> float:
        try:
            return float(row.get(self.rank))  # pyright: ignore[reportArgumentType] - any cell
        except (TypeError, ValueError):
            return float("inf")


def find_thread(rows: Sequence[Mapping[str, Any]]) -> Thread | None:
    """Return the columns of conversations in the first rows, or None if each row is a document of its own.

    At least every second row must belong to the same conversation as the row before it.
    """
    names = {_plain(column): column for row in rows for column in reversed(list(row))}

    def column(usual: frozenset[str]) -> str:
        return next((own for name, own in names.items() if name in usual), "")

    key, speaker, text = column(THREAD_NAMES), column(SPEAKER_NAMES), column(TEXT_NAMES)
    if not (key and speaker and text) or len({key, speaker, text}) < 3:
        return None
    keys = [row.get(key) for row in rows]
    if any(not isinstance(value, str | bytes | int) for value in keys):
        return None
    joined = sum(one == other for one, other in pairwise(keys))
    if 2 * joined < len(keys) - 1 or not joined:
        return None
    id_, parent = column(frozenset({"messageid", "id"})), column(frozenset({"parentid", "parentmessageid"}))
    tree = {"id": id_, "parent": parent, "rank": column(frozenset({"rank"}))} if id_ and parent else {}
    thread = Thread(key, speaker, text, **tree)
    return thread if sum(_is_message(row, thread) for row in rows) > len(rows) // 2 else None


def _is_message(row: Mapping[str, Any], thread: Thread) -> bool:
    return all(is_text(row.get(column)) and row[column].strip() for column in (thread.speaker, thread.text))


def _plain(column: str) -> str:
    return "".join(character for character in column.lower() if character.isalnum())
