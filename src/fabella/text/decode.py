"""Blocks of a text file → blocks of UTF-8 without byte order mark, with ``\\n`` line ends; binary files are refused."""

import codecs
from collections.abc import Iterator
from itertools import chain

from fabella.errors import TextError
from fabella.text.decode_policy import plain_line_ends
from fabella.text.read_report import ReadReport

HEAD = 2**16
"""Bytes inspected to distinguish text from binary files."""
MIN_BLOCK_BYTES = 2**18
"""Bytes of a block at least: decompressors return small pieces, and each block costs a search."""
MAX_CONTROL_SHARE = 0.02
"""Share of control bytes in text, 0 to 1: random bytes have 10 %, machine code more, text with color codes none."""
MIN_CONTROL_BYTES = 8
"""Control bytes below which a file is text: a few NULs in a short text are damage, which the policy handles."""

CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1a\x1b") + b"\x7f"

UNPACK_IT = "Unpack it, then give the text files in it."
NAME_IT = "Fabella decompresses it if its name ends in {}."
# Signatures of binary files: (offset, bytes, format, hint).
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, or a document that is one (.docx, .epub, .xlsx)", UNPACK_IT),
    (0, b"PK\x05\x06", "an empty zip archive", UNPACK_IT),
    (257, b"ustar", "a tar archive", UNPACK_IT),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK_IT),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK_IT),
    (0, b"\x1f\x8b", "compressed with gzip", NAME_IT.format(".gz")),
    (0, b"\xfd7zXZ\0", "compressed with xz", NAME_IT.format(".xz")),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", NAME_IT.format(".zst")),
    (0, b"BZh", "compressed with bzip2", "Decompress it with bunzip2."),
    (0, b"PAR1", "a parquet file", "Rename it so that it ends in .parquet."),
    (0, b"%PDF-", "a PDF", "Convert it: pdftotext FILE.pdf FILE.txt."),
    (0, b"{\\rtf", "a rich text file", "Save it as plain text."),
    (0, b"\x89PNG", "a picture", ""),
    (0, b"\xff\xd8\xff", "a picture", ""),
    (0, b"GGUF", "a model file", ""),
    (0, b"SQLite format 3\0", "a database", "Export its text, for example as .csv."),
    (0, b"\x7fELF", "a program", ""),
)


def to_utf8_blocks(blocks: Iterator[bytes], name: str, notes: ReadReport) -> Iterator[bytes]:
    """Yield the text in UTF-8 with ``\\n`` line ends. UTF-16 is recognized by its mark or its zeros, and converted.

    Raises TextError for archives, pictures and other binary files, and for UTF-32. Damage within text passes through
    for the policy to handle: invalid UTF-16 becomes invalid UTF-8.
    """
    blocks = coalesce(blocks, MIN_BLOCK_BYTES)
    head = next(blocks, b"")
    reject_known_binary(head, name)
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise TextError(f"{name} is UTF-32.", hint="Convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW.")
    if encoding := utf16(head):
        notes.remarks[f"encoding of {name}"] = f"{name} is {encoding.upper()}, converted"
        return _plain_line_ends(_from_utf16(chain([head], blocks), encoding), notes)
    reject_binary(head[:HEAD], name)
    if head.startswith(codecs.BOM_UTF8):
        notes.remarks[f"encoding of {name}"] = f"byte order mark of {name} dropped"
        head = head[len(codecs.BOM_UTF8) :]
    return _plain_line_ends(chain([head], blocks), notes)


def coalesce(blocks: Iterator[bytes], least: int) -> Iterator[bytes]:
    """Yield the same bytes in blocks of at least ``least`` bytes, except the last."""
    pieces: list[bytes] = []
    size = 0
    for block in blocks:
        pieces.append(block)
        size += len(block)
        if size >= least:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)


def _plain_line_ends(blocks: Iterator[bytes], notes: ReadReport) -> Iterator[bytes]:
    pending = b""  # a \\r at the end of a block: the next block may begin with \\n
    for block in blocks:
        if pending or b"\r" in block:
            block = pending + block
            pending = b"\r" if block.endswith(b"\r") else b""
            block, count = plain_line_ends(block.removesuffix(b"\r"))
            notes.carriage_returns += count
        yield block
    if pending:
        notes.carriage_returns += 1
        yield b"\n"


def reject_known_binary(head: bytes, name: str) -> None:
    """Raise TextError if a file begins like an archive, a picture or another known binary format."""
    for offset, magic, what, hint in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            raise TextError(f"{name} is not text: it is {what}.", hint=hint)


def reject_binary(head: bytes, name: str) -> None:
    """Raise TextError if too many of the first bytes of a file are control bytes."""
    control = len(head) - len(head.translate(None, CONTROL))
    if control >= MIN_CONTROL_BYTES and control > MAX_CONTROL_SHARE * len(head):
        size = "64 KiB" if len(head) == HEAD else f"{len(head):,} bytes"
        share = 100 * control / len(head)
        raise TextError(
            f"{name} is not text: {share:.0f} % of its first {size} are control bytes.",
            hint="Give .txt, .jsonl, .csv or .parquet, or .gz, .xz or .zst of the first three.",
        )


def utf16(head: bytes) -> str:
    """Detect ``utf-16-le`` or ``utf-16-be`` by the mark or by zeros in every other byte; return empty for the rest."""
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) / 2
    if half < MIN_CONTROL_BYTES:
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
