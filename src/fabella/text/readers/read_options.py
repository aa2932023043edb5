"""Options of a read, the same for all readers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of a read. A reader ignores those that its format does not have."""

    separator: str = "auto"
    """Document separator of plain text: auto, file, blank-lines, lines, or the separator itself."""
    one_text: bool = False
    """Whether a file without markers is one document: true for each of many files."""
    column: str = "auto"
    """Text column of a table; auto detects it."""
    chat_template: str = "plain"
    """Template that writes a conversation as text."""
    keep_boilerplate: bool = False
    """Whether header and licence of Project Gutenberg, and front matter, are read as text."""
