"""Read a file in blocks, decompressing .gz, .xz, .bz2 and .zst; decompression bombs are stopped by their ratio.

Memory is bounded by one block and by WINDOW, the history that xz and zstd may keep.
"""

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from fabella.errors import TextError

BLOCK = 2**20
"""Bytes of a block at most (zstd: 32 times as many)."""
RATIO = 200
"""Decompressed over compressed size at most: stories under ``zstd -19`` have 4, regular logs 100, a bomb 1,000."""
FREE = 2**24
"""Decompressed bytes allowed at any ratio: a few lines repeated many times compress very well."""
WINDOW = 2**27
"""Bytes of history a decompressor may keep; ``xz -9`` and ``zstd --ultra -22`` need no more."""
ZSTD_STEP = 2**10
"""Compressed bytes given to zstd at once: its output has no limit, and 4 bytes can expand to 128 KiB."""

SIGNATURES = {
    ".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04",
    ".7z": b"7z\xbc\xaf\x27\x1c", ".rar": b"Rar!\x1a\x07",
}  # fmt: skip
"""Suffix → bytes at the beginning of a file of this format."""
HEAD = 2**10
"""Bytes at the beginning of a file by which its format is recognized."""


# Yields decompressed blocks; returns the compressed bytes after the end of the stream.
Decompressed = Generator[bytes, None, bytes]


class Codec(NamedTuple):
    """One compression format. ``new()`` returns a decompressor with ``eof`` and ``unused_data``."""

    new: Callable[[], Any]
    decompress: Callable[[Any, bytes], Decompressed]
    damage: type[Exception]


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file. Raises TextError: unreadable, corrupt, truncated, or a bomb."""
    try:
        with path.open("rb") as file:
            yield from decompressed_blocks(file, path)
    except OSError as error:
        raise TextError(f"Cannot read {path}: {error.strerror or error}.") from error


def decompressed_blocks(
    file: BinaryIO | IO[bytes], path: Path, position: Callable[[], int] | None = None
) -> Iterator[bytes]:
    """Yield the bytes of an open file, decompressed as its name says. Raises TextError: corrupt, truncated, a bomb.

    ``position``: bytes read so far, for a file that does not know it.
    """
    new = CODECS.get(path.suffix.lower())
    if new is None:
        while block := file.read(BLOCK):
            yield block
        return
    codec = new()
    head = file.read(HEAD)
    try:
        yield from limited_blocks(_streams(head, file, codec), position or file.tell, path)
    except (codec.damage, EOFError) as error:
        damage = TextError(f"Cannot decompress {path}: {error}.", hint="Download or compress it again.")
        raise misnamed(path, head) or damage from error


def misnamed(path: Path, head: bytes) -> TextError | None:
    """Return the error of a file whose beginning, ``head``, is not what its name says; None if it may be damaged."""
    name = path.name if path.suffix == ".tar" else path.name.removesuffix(path.suffix)
    found = next((suffix for suffix, signature in SIGNATURES.items() if head.startswith(signature)), "")
    if found and CODECS.get(found, found) != CODECS.get(path.suffix.lower(), path.suffix.lower()):
        return TextError(
            f"{path} is not a {path.suffix} file: it begins as a {found} file does.", hint=f"Name it {name}{found}."
        )
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    if found or not text or not all(sign.isspace() or (sign.isprintable() and sign != "\ufffd") for sign in text):
        return None
    plain = name if Path(name).suffix and path.suffix != ".tar" else f"{Path(name).stem}.txt"
    return TextError(f"{path} is not a {path.suffix} file: it is text, {text[:30]!r} ….", hint=f"Name it {plain}.")


def limited_blocks(blocks: Iterator[bytes], packed: Callable[[], int], path: Path) -> Iterator[bytes]:
    """Yield unpacked blocks. Raises TextError if they exceed RATIO times the ``packed()`` bytes they came from."""
    grown = 0
    for block in blocks:
        grown += len(block)
        if grown > FREE + RATIO * packed():
            raise TextError(
                f"{path} unpacks to more than {RATIO} times its size ({grown:,} bytes from its first "
                f"{packed():,}): a decompression bomb, or text too repetitive to train on.",
                hint="If you trust it, unpack it and give the unpacked file.",
            )
        yield block


def _streams(head: bytes, file: BinaryIO | IO[bytes], codec: Codec) -> Iterator[bytes]:
    """Decompress one stream after another, as ``cat a.gz b.gz > c.gz`` joins them; zeros between them are padding.

    ``head``: what has been read of the file already.
    """
    stream = codec.new()
    between = True
    for packed in chain([head], iter(partial(file.read, 2**16), b"")):
        while packed := packed.lstrip(b"\0") if between else packed:
            packed = yield from codec.decompress(stream, packed)
            between = stream.eof
            if stream.eof:
                stream = codec.new()
    if not between:
        raise EOFError("it is truncated")


def _decompress_gzip(stream: Any, packed: bytes) -> Decompressed:
    while packed and not stream.eof:
        yield stream.decompress(packed, BLOCK)
        packed = stream.unconsumed_tail
    return stream.unused_data


def _decompress_xz(stream: Any, packed: bytes) -> Decompressed:
    yield stream.decompress(packed, BLOCK)
    while not stream.eof and not stream.needs_input:
        yield stream.decompress(b"", BLOCK)
    return stream.unused_data


def _decompress_zstd(stream: Any, packed: bytes) -> Decompressed:
    start = 0
    while start < len(packed) and not stream.eof:
        yield stream.decompress(packed[start : start + ZSTD_STEP])
        start += ZSTD_STEP
    return stream.unused_data + packed[start:]


def _gzip() -> Codec:
    return Codec(lambda: zlib.decompressobj(wbits=31), _decompress_gzip, zlib.error)


def _xz() -> Codec:
    return Codec(lambda: lzma.LZMADecompressor(memlimit=WINDOW), _decompress_xz, lzma.LZMAError)


def _bz2() -> Codec:
    return Codec(bz2.BZ2Decompressor, _decompress_xz, OSError)


def _zstd() -> Codec:
    try:
        import zstandard
    except ImportError as error:
        raise TextError("Reading .zst needs zstandard.", hint="pip install 'fabella[zstd]'") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    return Codec(decompressor.decompressobj, _decompress_zstd, zstandard.ZstdError)


CODECS = {
    ".gz": _gzip, ".xz": _xz, ".bz2": _bz2, ".zst": _zstd,
    ".tgz": _gzip, ".txz": _xz, ".tbz": _bz2, ".tbz2": _bz2, ".tzst": _zstd,
}  # fmt: skip
