"""Options of a read, the same for all readers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of a read. A reader ignores those that its format does not have."""

    separator: str = "file"
    """Document separator of plain text: file, blank-lines, lines, or the separator itself."""
    separator_detected: bool = False
    """Whether the separator was detected rather than given by the user."""
    column: str = "auto"
    """Text column of a table; auto detects it."""
