"""Boilerplate around a text: header and licence of Project Gutenberg, and the front matter of Markdown.

What is left out becomes empty lines, so that the numbers of the lines after it stay the same.
"""

import re
from collections.abc import Iterator
from itertools import chain

from fabella.text.read_report import ReadReport

HEAD_BYTES = 2**16
"""Bytes at the start of a text in which its header begins and ends."""
HELD_BYTES = 512
"""Bytes kept back at the end of a block: a line that starts there may end in the next block."""
START = re.compile(
    rb"^[^\n\S]*\*\*\* ?START OF (?:THE |THIS )?PROJECT GUTENBERG[^\n]*(?:\n[^\n*]+)?\*\*\*[^\n]*\n"
    rb"|^\*END\*? ?THE SMALL PRINT![^\n]*\n",
    re.MULTILINE | re.IGNORECASE,
)
END = re.compile(
    rb"^[^\n\S]*(?:\*\*\* ?END OF (?:THE |THIS )?PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg)[^\n]*\n?",
    re.MULTILINE | re.IGNORECASE,
)
FRONT_MATTER = re.compile(rb"(?:---[ \t]*\n(?:(?!---)[^\n]*\n)*?---|\+\+\+[ \t]*\n(?:[^\n]*\n)*?\+\+\+)[ \t]*(?:\n|\Z)")
"""YAML between lines of ---, or TOML between lines of +++."""


def without_gutenberg(blocks: Iterator[bytes], name: str, notes: ReadReport) -> Iterator[bytes]:
    """Yield the text between the START and END lines of Project Gutenberg; a text without a START line is unchanged."""
    head, blocks = read_head(blocks, HEAD_BYTES)
    if not START.search(head):
        yield from chain([head] if head else [], blocks)
        return
    dropped, inside, rest = 0, False, b""
    last = False
    stream = chain([head], blocks)
    while not last:
        block = next(stream, None)
        last = block is None
        rest += block or b""
        start = 0
        while border := (END if inside else START).search(rest, start):
            if inside:
                yield rest[start : border.start()]
            kept_from = border.start() if inside else start
            dropped += border.end() - kept_from
            yield b"\n" * rest.count(b"\n", kept_from, border.end())
            start, inside = border.end(), not inside
        end = len(rest) if last else max(start, rest.rfind(b"\n", 0, max(len(rest) - HELD_BYTES, 0)) + 1)
        if inside:
            yield rest[start:end]
        else:
            dropped += end - start
            yield b"\n" * rest.count(b"\n", start, end)
        rest = rest[end:]
    notes.add_boilerplate("header and licence of Project Gutenberg", name, dropped)


def without_front_matter(blocks: Iterator[bytes], name: str, notes: ReadReport) -> Iterator[bytes]:
    """Yield a Markdown text without the YAML or TOML at its start."""
    head, blocks = read_head(blocks, HEAD_BYTES)
    if match := FRONT_MATTER.match(head):
        notes.add_boilerplate("front matter", name, match.end())
        head = b"\n" * head.count(b"\n", 0, match.end()) + head[match.end() :]
    yield from chain([head] if head else [], blocks)


def read_head(blocks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """Return the first blocks, at least ``size`` bytes of them in one piece if there are so many, and the others."""
    pieces: list[bytes] = []
    read = 0
    while read < size and (block := next(blocks, None)) is not None:
        pieces.append(block)
        read += len(block)
    return b"".join(pieces), blocks
