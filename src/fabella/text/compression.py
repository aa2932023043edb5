"""A file's bytes in blocks, unpacked on the way if it ends in .gz, .xz or .zst; a bomb is stopped by its ratio.

Memory is bounded: a block at a time, and the history that xz and zstd may ask for is at most WINDOW.
"""

import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fabella.errors import TextError

BLOCK = 2**20
"""bytes in a block, at most (zstd: 32 times as many)"""
RATIO = 200
"""Times a file may grow: stories packed by ``zstd -19`` grow 4 times, regular logs 100 times, a bomb 1,000 times."""
FREE = 2**24
"""bytes that a file may grow to whatever its ratio: a few distinct lines, repeated, pack very well"""
WINDOW = 2**27
"""bytes of history an unpacker may keep; what ``xz -9`` and ``zstd --ultra -22`` write needs no more"""
ZSTD_STEP = 2**10
"""Packed bytes given to zstd at once: its unpacker knows no limit on output, and 4 bytes can mean 128 KiB."""


# Yields unpacked blocks; returns the packed bytes that are left once the stream has ended.
Unpacking = Generator[bytes, None, bytes]


class Codec(NamedTuple):
    """How to read one kind of packed file. ``new()`` gives an unpacker with ``eof`` and ``unused_data``."""

    new: Callable[[], Any]
    unpack: Callable[[Any, bytes], Unpacking]
    damage: type[Exception]


def read_blocks(path: Path) -> Iterator[bytes]:
    """Unpacked bytes of a file, block by block. Raises TextError: unreadable, damaged, cut short, or a bomb."""
    try:
        with path.open("rb") as file:
            if packing := PACKINGS.get(path.suffix.lower()):
                yield from _unpacked(file, path, packing())
            else:
                while block := file.read(BLOCK):
                    yield block
    except OSError as error:
        raise TextError(f"{path} cannot be read: {error.strerror or error}.") from error


def _unpacked(file: BinaryIO, path: Path, packing: Codec) -> Iterator[bytes]:
    grown = 0
    try:
        for block in _streams(file, packing):
            grown += len(block)
            if grown > FREE + RATIO * file.tell():
                raise TextError(
                    f"{path} unpacks to more than {RATIO} times its size ({grown:,} bytes from its first "
                    f"{file.tell():,}): a decompression bomb, or hardly text to learn from.",
                    hint="If you trust it, unpack it yourself and give the unpacked file.",
                )
            yield block
    except (packing.damage, EOFError) as error:
        raise TextError(f"{path} cannot be unpacked: {error}.", hint="Fetch it, or pack it, again.") from error


def _streams(file: BinaryIO, packing: Codec) -> Iterator[bytes]:
    """One stream after another, as ``cat a.gz b.gz > c.gz`` joins them; zeros around a stream are padding."""
    stream = packing.new()
    between = True
    while packed := file.read(2**16):
        while packed := packed.lstrip(b"\0") if between else packed:
            packed = yield from packing.unpack(stream, packed)
            between = stream.eof
            if stream.eof:
                stream = packing.new()
    if not between:
        raise EOFError("it is cut short")


def _unpack_gzip(stream: Any, packed: bytes) -> Unpacking:
    while packed and not stream.eof:
        yield stream.decompress(packed, BLOCK)
        packed = stream.unconsumed_tail
    return stream.unused_data


def _unpack_xz(stream: Any, packed: bytes) -> Unpacking:
    yield stream.decompress(packed, BLOCK)
    while not stream.eof and not stream.needs_input:
        yield stream.decompress(b"", BLOCK)
    return stream.unused_data


def _unpack_zstd(stream: Any, packed: bytes) -> Unpacking:
    start = 0
    while start < len(packed) and not stream.eof:
        yield stream.decompress(packed[start : start + ZSTD_STEP])
        start += ZSTD_STEP
    return stream.unused_data + packed[start:]


def _gzip() -> Codec:
    return Codec(lambda: zlib.decompressobj(wbits=31), _unpack_gzip, zlib.error)


def _xz() -> Codec:
    return Codec(lambda: lzma.LZMADecompressor(memlimit=WINDOW), _unpack_xz, lzma.LZMAError)


def _zstd() -> Codec:
    try:
        import zstandard
    except ImportError as error:
        raise TextError("Reading .zst needs zstandard.", hint="pip install 'fabella[zstd]'") from error
    unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    return Codec(unpacker.decompressobj, _unpack_zstd, zstandard.ZstdError)


PACKINGS = {".gz": _gzip, ".xz": _xz, ".zst": _zstd}
