"""Reader of Markdown and other markup for prose: a file is one document, without its front matter."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fabella.text.boundaries.boilerplate import without_front_matter
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers.plain import read_text

SUFFIXES = frozenset({".md", ".markdown", ".mdx", ".rst", ".tex", ".org", ".adoc"})


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the file as one document, or its documents between markers."""
    name = str(path)
    blocks = read_utf8(path, options, policy.notes)
    if not options.keep_boilerplate:
        blocks = without_front_matter(blocks, name, policy.notes)
    return read_text(blocks, name, replace(options, one_text=True), policy)
