"""Blocks of a text file → blocks of UTF-8 without byte order mark, with ``\\n`` line ends; binary files are refused.

The encoding is given, or detected: by a byte order mark, by zeros (UTF-16, UTF-32), or, at the first bytes that are
neither ASCII nor UTF-8, by models of other encodings.
"""

import codecs
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fabella.errors import TextError
from fabella.storage import escaped
from fabella.text.compression import read_blocks
from fabella.text.decode_policy import ReadOptions, plain_line_ends
from fabella.text.decoding.detect_encoding import DetectedEncoding, detect_encoding, odd_places
from fabella.text.decoding.encoding_names import AUTO, canonical_name
from fabella.text.read_report import ReadReport

HEAD = 2**16
"""Bytes inspected to distinguish text from binary files."""
MIN_BLOCK_BYTES = 2**18
"""Bytes of a block at least: decompressors return small pieces, and each block costs a search."""
MAX_CONTROL_SHARE = 0.02
"""Share of control bytes in text, 0 to 1: random bytes have 10 %, machine code more, text with color codes none."""
MIN_CONTROL_BYTES = 8
"""Control bytes below which a file is text: a few NULs in a short text are damage, which the policy handles."""

MAX_VALID = 1
"""Bytes that are not UTF-8 for each character beyond ASCII that is, up to which a text is damaged UTF-8."""
MIN_VALID = 3
"""Characters beyond ASCII from which on valid UTF-8 is no accident."""
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip

CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1a\x1b") + b"\x7f"

UNPACK_IT = "Unpack it, then give the text files in it."
NAME_ARCHIVE = "Fabella reads the text files in it if its name ends in {}."
NAME_IT = "Fabella decompresses it if its name ends in {}."
# Signatures of binary files: (offset, bytes, format, hint).
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, or a document that is one (.docx, .epub, .xlsx)", NAME_ARCHIVE.format(".zip")),
    (0, b"PK\x05\x06", "an empty zip archive", UNPACK_IT),
    (257, b"ustar", "a tar archive", NAME_ARCHIVE.format(".tar")),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK_IT),
    (0, b"Rar!\x1a\x07", "a rar archive", UNPACK_IT),
    (0, b"\x1f\x8b", "compressed with gzip", NAME_IT.format(".gz")),
    (0, b"\xfd7zXZ\0", "compressed with xz", NAME_IT.format(".xz")),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", NAME_IT.format(".zst")),
    (0, b"BZh", "compressed with bzip2", NAME_IT.format(".bz2")),
    (0, b"PAR1", "a parquet file", "Rename it so that it ends in .parquet."),
    (0, b"%PDF-", "a PDF", "Convert it: pdftotext FILE.pdf FILE.txt."),
    (0, b"{\\rtf", "a rich text file", "Save it as plain text."),
    (0, b"\x89PNG", "a picture", ""),
    (0, b"\xff\xd8\xff", "a picture", ""),
    (0, b"GGUF", "a model file", ""),
    (0, b"SQLite format 3\0", "a database", "Export its text, for example as .csv."),
    (0, b"\x7fELF", "a program", ""),
)


def read_utf8(path: Path, options: ReadOptions, notes: ReadReport) -> Iterator[bytes]:
    """Yield the text of a file, or of a file in an archive, decompressed, in UTF-8; see ``to_utf8_blocks``."""
    blocks = options.opened() if options.opened else read_blocks(path)
    return to_utf8_blocks(blocks, str(path), notes, options.encoding)


def to_utf8_blocks(blocks: Iterator[bytes], name: str, notes: ReadReport, encoding: str = AUTO) -> Iterator[bytes]:
    """Yield the text in UTF-8 with ``\\n`` line ends. ``encoding``: a name of Python's, or ``auto``.

    A byte order mark overrides ``encoding``. Raises TextError for archives, pictures and other binary files. Damage
    within text passes through for the policy to handle: invalid bytes stay invalid UTF-8.
    """
    return _plain_line_ends(with_line_ends(blocks, name, notes, encoding), notes)


def with_line_ends(blocks: Iterator[bytes], name: str, notes: ReadReport, encoding: str = AUTO) -> Iterator[bytes]:
    """Yield the text in UTF-8 as ``to_utf8_blocks`` does, with its own line ends."""
    blocks = coalesce(blocks, MIN_BLOCK_BYTES)
    head = next(blocks, b"")
    reject_known_binary(head, name)
    for mark, marked in MARKS:
        if head.startswith(mark):
            notes.add_encoding(marked, "byte order mark", name)
            rest = chain([head[len(mark) :]], blocks)
            return rest if marked == "utf-8" else _transcoded(rest, marked)
    blocks = chain([head], blocks)
    if encoding != AUTO:
        if canonical_name(encoding) == "utf-8":
            return blocks
        return _transcoded(_noting_utf8(blocks, encoding, name, notes), encoding)
    if wide := wide_encoding(head):
        notes.add_encoding(wide, "detected", name)
        return _transcoded(blocks, wide)
    reject_binary(head[:HEAD], name)
    return _from_detected(blocks, name, notes)


def _from_detected(blocks: Iterator[bytes], name: str, notes: ReadReport) -> Iterator[bytes]:
    """Yield ASCII as it is. The first other block decides the encoding of itself and of all that follows."""
    for block in blocks:
        if block.isascii() and b"\x1b$" not in block:
            yield block
            continue
        rest = chain([block], blocks)
        found = detect_encoding(block) if _is_foreign(block) else None
        if found is None:
            yield from rest
        elif found.sure:
            notes.add_encoding(found.name, "detected", name)
            yield from _transcoded(rest, found.name)
        else:
            if not found.rare:
                other = found.runner_up
                notes.encoding_hints[name] = (
                    f"It may be {_reading(found)}" + (f", or {_reading(other)}" if other else "") + ". "
                )
            yield from rest


def _reading(found: DetectedEncoding) -> str:
    return f"{found.name}, where it reads {escaped(found.excerpt)!r}: --encoding {found.name}"


def _is_foreign(block: bytes) -> bool:
    """Return True for a block with far more bytes that are not UTF-8 than characters that are, or with ISO 2022."""
    invalid, valid = _utf8_counts(block)
    return invalid > MAX_VALID * valid if invalid else b"\x1b$" in block


def _utf8_counts(block: bytes) -> tuple[int, int]:
    """Return the numbers of bytes that are not UTF-8, and of characters beyond ASCII that are."""
    try:
        text, _ = codecs.utf_8_decode(block, "strict", False)
    except UnicodeDecodeError:
        text, _ = codecs.utf_8_decode(block, "surrogateescape", False)
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    invalid = len(ESCAPED_BYTE.findall(text)) if beyond else 0
    return invalid, beyond - invalid


def _noting_utf8(blocks: Iterator[bytes], encoding: str, name: str, notes: ReadReport) -> Iterator[bytes]:
    """Yield the blocks; note that a file is UTF-8 although it is read in another encoding."""
    decided = False
    for block in blocks:
        if not decided and not block.isascii():
            decided = True
            invalid, valid = _utf8_counts(block)
            if not invalid and valid >= MIN_VALID:
                notes.remarks[f"UTF-8 of {name}"] = f"{name} is valid UTF-8, but is read as {encoding} (--encoding)"
        yield block


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


def wide_encoding(head: bytes) -> str:
    """Return UTF-16 or UTF-32 for text without a mark, by its zeros or by how it reads; empty for other bytes."""
    if len(head) < 2 * MIN_CONTROL_BYTES:
        return ""
    if encoding := _by_zeros(head):
        return encoding
    # UTF-16 of a script without zeros, such as Chinese, looks like 8-bit text with many control bytes.
    sample = head[: HEAD // 8 * 2]
    control = len(sample) - len(sample.translate(None, CONTROL))
    if control < MIN_CONTROL_BYTES or control <= MAX_CONTROL_SHARE * len(sample):
        return ""
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)("strict").decode(sample)
        except UnicodeDecodeError:
            continue
        if odd_places(text) is not None:
            return encoding
    return ""


def _by_zeros(head: bytes) -> str:
    zeros = [head[column::4].count(0) for column in range(4)]
    quarter = len(head) // 4
    # The two upper bytes of a character of UTF-32 are 0, except for rare scripts and emoji.
    if zeros[3] >= quarter and zeros[2] > 0.9 * quarter and zeros[0] < 0.5 * quarter:
        return "utf-32-le"
    if zeros[0] >= quarter and zeros[1] > 0.9 * quarter and zeros[3] < 0.5 * quarter:
        return "utf-32-be"
    even, odd, half = zeros[0] + zeros[2], zeros[1] + zeros[3], len(head) / 2
    if odd > 0.5 * half and even < 0.01 * half:
        return "utf-16-le"
    if even > 0.5 * half and odd < 0.01 * half:
        return "utf-16-be"
    return ""


def _transcoded(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield text of another encoding in UTF-8; invalid bytes become lone surrogates, which are invalid UTF-8."""
    wide = canonical_name(encoding).startswith(("utf-16", "utf-32"))
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass" if wide else "surrogateescape")
    first = True
    for block in blocks:
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError:  # UTF-32 beyond Unicode
            decoder.reset()
            yield b"\xff"
            continue
        if first and text:
            text, first = text.removeprefix("\N{BYTE ORDER MARK}"), False
        yield text.encode("utf-8", "surrogatepass")
    if wide and decoder.getstate()[0]:  # half a character at the end of the file
        yield b"\xff"
    elif not wide:
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
