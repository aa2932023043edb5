"""Reader of web pages: a page is one document of its text (needs ``pip install 'fabella[documents]'``)."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.boundaries.boilerplate import read_head
from fabella.text.compression import read_blocks
from fabella.text.decode import to_utf8_blocks
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.decoding.encoding_names import AUTO, canonical_name

GROUP = "page"
SUFFIXES = frozenset({".html", ".htm", ".xhtml"})

NOT_TEXT = re.split(
    r"\s", "script style noscript template svg iframe object canvas form button select input nav aside footer head"
)
"""Elements whose content is no text of the page."""
BLOCKS = frozenset((
    "address", "article", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section",
    "table", "tr", "ul",
))  # fmt: skip
"""Elements on lines of their own; those in PARAGRAPHS have empty lines around them."""
PARAGRAPHS = frozenset((
    "blockquote", "div", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "ul",
))  # fmt: skip
HEAD_BYTES = 2**12
"""Bytes in which a page declares its encoding: browsers look at the first 1,024, scripts may come before."""
DECLARATION = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
LINE_BORDER, PARAGRAPH_BORDER, KEPT_SPACE = "\x01", "\x02", "\x03"
"""Stand-ins, which no page contains: the borders of elements, and a space of ``<pre>``."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the text of a page. Raises TextError for a missing extra and for damage."""
    name = str(path)
    head, blocks = read_head(options.opened() if options.opened else read_blocks(path), HEAD_BYTES)
    encoding = options.encoding if options.encoding != AUTO else _declared_encoding(head)
    page = b"".join(to_utf8_blocks(chain([head], blocks), name, policy.notes, encoding))
    for markup in policy.text(page, lambda _raw, at: f"{name}, byte {at}"):
        policy.notes.documents -= 1  # counted again as the text of the page
        yield from policy.decoded_text(page_text(markup, name), lambda _raw, at: f"{name}, byte {at} of its text")


def _declared_encoding(head: bytes) -> str:
    """Return the encoding that a page declares at its beginning, as browsers read it; ``auto`` without one.

    A page that declares UTF-8 and is not is common: UTF-8 is detected in any case.
    """
    match = DECLARATION.search(head[:HEAD_BYTES])
    name = canonical_name(match[1].decode("ascii")) if match else ""
    if name in ("iso8859-1", "ascii"):  # browsers read both as Windows-1252
        return "cp1252"
    return AUTO if not name or name.startswith("utf") else name


def page_text(markup: str, name: str) -> str:
    """Return the text of HTML: paragraphs separated by empty lines, without scripts, navigation and footers."""
    try:
        from bs4 import BeautifulSoup  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TextError(f"Reading {name} needs beautifulsoup4.", hint="pip install 'fabella[documents]'") from error
    page: Any = BeautifulSoup(markup, "html.parser")
    body = page.body or page
    for element in body.find_all(NOT_TEXT):
        element.decompose()
    main = body.find_all(["main", "article"], recursive=True)
    roots = [element for element in main if not element.find_parent(["main", "article"])] or [body]
    text = PARAGRAPH_BORDER.join("".join(_pieces(root)) for root in roots)
    text = re.sub(r"[ \t]*[\x01\x02][\s\x01\x02]*", _border, text)
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip(" ") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n").replace(KEPT_SPACE, " ")


def _border(borders: re.Match[str]) -> str:
    """Return the line ends for adjacent borders: an empty line if a paragraph is among them."""
    return "\n\n" if PARAGRAPH_BORDER in borders[0] else "\n"


def _pieces(element: Any) -> Iterator[str]:
    """Yield the text below an element, with borders around blocks; white space in the source is one space."""
    stack: list[Any] = [element]
    while stack:
        item = stack.pop()
        if type(item) is str:  # pushed below
            yield item
        elif isinstance(item, str):
            if type(item).__name__ == "NavigableString":  # not a comment or a declaration
                yield _text(item)
        elif item.name == "br":
            yield "\n"
        else:
            cell = "\t" if item.name in ("td", "th") else ""
            border = PARAGRAPH_BORDER if item.name in PARAGRAPHS else LINE_BORDER if item.name in BLOCKS else ""
            stack += [border or cell, *reversed(item.contents), border]


def _text(item: Any) -> str:
    """Return the text of a node. Spaces of ``<pre>``, such as the indentation of code, are kept."""
    text = re.sub(r"[\x01-\x03]", "", item)
    if item.find_parent("pre"):
        return text.expandtabs(4).replace(" ", KEPT_SPACE)
    return re.sub(r"\s+", " ", text)
