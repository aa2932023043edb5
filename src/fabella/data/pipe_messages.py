"""Lists of byte strings over a pipe, between the preparing process and its workers."""

import struct
from collections.abc import Sequence
from typing import IO

COUNT = struct.Struct("<I")
SIZE = struct.Struct("<Q")


def send(stream: IO[bytes], *parts: bytes | memoryview) -> None:
    """Write a list; the other side reads it with :func:`receive`."""
    stream.write(COUNT.pack(len(parts)) + b"".join(SIZE.pack(memoryview(part).nbytes) for part in parts))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Sequence[bytes]:
    """The next list. Raises EOFError where the other side has ended."""
    (count,) = COUNT.unpack(_exactly(stream, COUNT.size))
    sizes = [SIZE.unpack(_exactly(stream, SIZE.size))[0] for _ in range(count)]
    return [_exactly(stream, size) for size in sizes]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other side of the pipe has ended")
    return data
