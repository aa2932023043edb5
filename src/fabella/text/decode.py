"""Blocks of any text file → blocks of plain UTF-8: no byte order mark, every line end ``\\n``; no text, no entry."""

import codecs
from collections.abc import Iterator
from itertools import chain

from fabella.errors import TextError
from fabella.text.decode_policy import plain_line_ends
from fabella.text.read_report import ReadReport

HEAD = 2**16
"""bytes looked at to tell text from other files"""
LEAST = 2**18
"""bytes in a block, at least: unpackers give crumbs, and each block costs a search"""
MOST_CONTROL = 0.02
"""Share of control bytes in text, at most: random bytes have 10 %, machine code more, text with colour codes none."""
SURE = 8
"""control bytes below which nothing is refused: a few NULs in a short text are damage, for the policy to judge"""

CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1a\x1b") + b"\x7f"

UNPACK_IT = "Unpack it, and give the text files in it."
NAME_IT = "Fabella unpacks it when its name ends in {}."
# What a file that is no text begins with (at the given offset), what it is, and what to do.
FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, or a document that is one (.docx, .epub, .xlsx)", UNPACK_IT),
    (0, b"PK\x05\x06", "an empty zip archive", UNPACK_IT),
    (257, b"ustar", "a tar archive", UNPACK_IT),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK_IT),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK_IT),
    (0, b"\x1f\x8b", "packed with gzip", NAME_IT.format(".gz")),
    (0, b"\xfd7zXZ\0", "packed with xz", NAME_IT.format(".xz")),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd", NAME_IT.format(".zst")),
    (0, b"BZh", "packed with bzip2", "Unpack it with bunzip2."),
    (0, b"PAR1", "a parquet file", "Give it a name that ends in .parquet."),
    (0, b"%PDF-", "a PDF", "Convert it: pdftotext FILE.pdf FILE.txt."),
    (0, b"{\\rtf", "a rich text file", "Save it as plain text."),
    (0, b"\x89PNG", "a picture", ""),
    (0, b"\xff\xd8\xff", "a picture", ""),
    (0, b"GGUF", "a model file", ""),
    (0, b"SQLite format 3\0", "a database", "Export its text, for example as .csv."),
    (0, b"\x7fELF", "a program", ""),
)


def to_utf8_blocks(blocks: Iterator[bytes], name: str, notes: ReadReport) -> Iterator[bytes]:
    """The same text in UTF-8 with plain line ends. UTF-16 is recognised by its mark or its zeros, and converted.

    Raises TextError for archives, pictures and other binary files, and for UTF-32. Damage within text passes
    through for the policy to judge: what UTF-16 cannot express becomes bytes that UTF-8 cannot either.
    """
    blocks = coalesce(blocks, LEAST)
    head = next(blocks, b"")
    reject_known_binary(head, name)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise TextError(f"{name} is UTF-32.", hint="Convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW.")
    if encoding := utf16(head):
        notes.remarks[f"encoding of {name}"] = f"{name} is {encoding.upper()}, converted"
        return _plain_line_ends(_from_utf16(chain([head], blocks), encoding), notes)
    refuse_binary(head[:HEAD], name)
    if head.startswith(codecs.BOM_UTF8):
        notes.remarks[f"encoding of {name}"] = f"byte order mark of {name} left out"
        head = head[len(codecs.BOM_UTF8) :]
    return _plain_line_ends(chain([head], blocks), notes)


def coalesce(blocks: Iterator[bytes], least: int) -> Iterator[bytes]:
    """The same bytes in blocks of ``least`` or more, but for the last."""
    crumbs: list[bytes] = []
    size = 0
    for block in blocks:
        crumbs.append(block)
        size += len(block)
        if size >= least:
            yield b"".join(crumbs)
            crumbs, size = [], 0
    if size:
        yield b"".join(crumbs)


def _plain_line_ends(blocks: Iterator[bytes], notes: ReadReport) -> Iterator[bytes]:
    held = b""  # a \\r at the end of a block, until it is known whether \\n follows
    for block in blocks:
        if held or b"\r" in block:
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            block, count = plain_line_ends(block.removesuffix(b"\r"))
            notes.carriage_returns += count
        yield block
    if held:
        notes.carriage_returns += 1
        yield b"\n"


def reject_known_binary(head: bytes, name: str) -> None:
    """Raises TextError where a file begins as an archive, a picture or another known format does."""
    for offset, magic, what, fix in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise TextError(f"{name} is not text: it is {what}.", hint=fix)


def refuse_binary(head: bytes, name: str) -> None:
    """Raises TextError where too many bytes of a file's beginning are control bytes."""
    control = len(head) - len(head.translate(None, CONTROL))
    if control >= SURE and control > MOST_CONTROL * len(head):
        size = "64 KiB" if len(head) == HEAD else f"{len(head):,} bytes"
        share = 100 * control / len(head)
        raise TextError(
            f"{name} is not text: {share:.0f} % of its first {size} are control bytes.",
            hint="Give .txt, .jsonl, .csv or .parquet, or one of these packed as .gz, .xz or .zst.",
        )


def utf16(head: bytes) -> str:
    """``utf-16-le`` or ``utf-16-be``, by the mark, or by zeros in nearly every other byte; empty for anything else."""
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) / 2
    if half < SURE:
        return ""
    if odd > 0.5 * half and even < 0.01 * half:
        return "utf-16-le"
    if even > 0.5 * half and odd < 0.01 * half:
        return "utf-16-be"
    return ""


def _from_utf16(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    first = True
    for block in blocks:
        text = decoder.decode(block)
        if first and text:
            text, first = text.removeprefix("\N{BYTE ORDER MARK}"), False
        yield text.encode("utf-8", "surrogatepass")
    if decoder.getstate()[0]:  # half a character at the end of the file
        yield b"\xff"
