"""Examine every kind of the text zoo and write docs/text-zoo.md: ``make text-zoo``."""

import sys
import tempfile
from pathlib import Path

from benchmarks.text_zoo.chat_kinds import KINDS as CHAT_KINDS
from benchmarks.text_zoo.kind import Kind, Result, examine, write_files
from benchmarks.text_zoo.plain_kinds import DAMAGED, ENCODED, PROSE, SEPARATED
from benchmarks.text_zoo.table_kinds import ARCHIVES, CSV, FOLDERS, FORMATS, JSON

SECTIONS = {
    "Prose": PROSE, "Separated documents": SEPARATED, "Encodings": ENCODED, "Damage": DAMAGED, "JSON": JSON,
    "Chats and nested text": CHAT_KINDS, "CSV": CSV, "Other formats": FORMATS, "Folders and configs": FOLDERS, "Compressed files and archives": ARCHIVES,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "text-zoo.md"
INTRODUCTION = """# The text zoo

{kinds} kinds of files that people bring, each generated and read as the commands read them, with what must come out: the
documents, compared one by one, the split, and what is printed. `make text-zoo` writes this page; the tests read the same
kinds. {passed} of {kinds} pass.

"Split" is the number of documents to train on and to validate on; a document whose end is held out counts in both.
"""


def examined(kind: Kind) -> Result:
    """Write a kind to a temporary directory and examine it."""
    with tempfile.TemporaryDirectory() as directory:
        write_files(kind, Path(directory))
        result = examine(kind, Path(directory))
        notes = [note.replace(f"{directory}/", "").replace(directory, "the folder") for note in result.notes]
        return Result(result.documents, result.bytes, result.train, result.validation, notes, result.problems)


def row(kind: Kind, result: Result) -> str:
    """Return a kind as a row of the table."""
    parts = [*kind.notes, *kind.warnings] or ([kind.refused] if kind.refused else [])
    printed = [next((note for note in result.notes if part in note), "") for part in parts]
    shown = "<br>".join(dict.fromkeys(note[:160].replace("|", "\\|").replace("<", "&lt;") for note in printed if note))
    outcome = "refused" if kind.refused else f"{result.documents:,}"
    size = "" if kind.refused else f"{result.bytes:,}"
    split = "" if kind.refused else f"{result.train:,} + {result.validation:,}"
    mark = "yes" if not result.problems else "**no**"
    return f"| {kind.name.replace('|', '')} | {outcome} | {size} | {split} | {shown} | {mark} |"


def main() -> int:
    """Write the page; return 1 if a kind fails."""
    lines: list[str] = []
    passed = number = 0
    for title, kinds in SECTIONS.items():
        lines += [
            f"## {title}",
            "",
            "| kind | documents | bytes | split | printed | passes |",
            "|---|--:|--:|--:|---|---|",
        ]
        for kind in kinds:
            result = examined(kind)
            number += 1
            passed += not result.problems
            lines.append(row(kind, result))
            for problem in result.problems:
                print(f"{kind.name}: {problem}")
        lines.append("")
    PAGE.write_text(INTRODUCTION.format(kinds=number, passed=passed) + "\n" + "\n".join(lines), encoding="utf-8")
    print(f"{passed} of {number} kinds pass; {PAGE.name} is written.")
    return int(passed < number)


if __name__ == "__main__":
    sys.exit(main())
