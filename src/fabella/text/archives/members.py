"""Files of an archive, read one after another without unpacking it to the disk.

A .zip has a list of its files, which are read in the order of their names. A .tar is read from its beginning to its
end: once for the names, and once for the contents. Decompression bombs are stopped by their ratio.
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fabella.errors import TextError
from fabella.text.compression import BLOCK, HEAD, decompressed_blocks, limited_blocks, misnamed, read_blocks

ZIP = frozenset({".zip"})
TAR = frozenset({".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"})
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)

OpenMember = Callable[[], Iterator[bytes]]
"""Open a file of an archive and yield its blocks, decompressed; only before the next file is reached."""


def is_archive(path: Path) -> bool:
    """Return whether the name of a file is that of an archive that can be read."""
    suffix = path.suffix.lower()
    return suffix in ZIP | TAR or (suffix in COMPRESSED and path.with_suffix("").suffix.lower() == ".tar")


COMPRESSED = (".gz", ".xz", ".zst", ".bz2")


def member_names(path: Path) -> list[Path]:
    """Return the names of the files of an archive below its own path. Raises TextError.

    Hidden files, links, devices, and names outside of the archive are left out.
    """
    with _damage_of(path):
        if path.suffix.lower() in ZIP:
            with zipfile.ZipFile(path) as archive:
                return [path / info.filename for info in _files_of(archive)]
        with _open_tar(path) as tar:
            return [path / member.name for member in tar if member.isfile() and not _hidden(member.name)]


def iter_members(path: Path) -> Iterator[tuple[Path, OpenMember]]:
    """Yield each file of an archive as (name below the archive's own path, how to open it). Raises TextError."""
    with _damage_of(path):
        if path.suffix.lower() in ZIP:
            with zipfile.ZipFile(path) as archive:
                for info in _files_of(archive):
                    yield path / info.filename, _zip_member(archive, info, path / info.filename)
            return
        with _open_tar(path) as tar:
            for member in tar:
                if member.isfile() and not _hidden(member.name):
                    yield path / member.name, _tar_member(tar, member, path / member.name)


def _files_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    infos = (
        info for info in archive.infolist()
        if not info.is_dir() and not _hidden(info.filename) and not stat.S_ISLNK(info.external_attr >> 16)
    )  # fmt: skip
    return sorted(infos, key=lambda info: PurePosixPath(info.filename).parts)


def _hidden(name: str) -> bool:
    """Return True for a hidden file, and for a name that is not below the archive: absolute, or with ``..``."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or PureWindowsPath(name).drive != ""
    return outside or any(part.startswith(".") or part == "__MACOSX" for part in path.parts if part != ".")


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: Path) -> OpenMember:
    def blocks() -> Iterator[bytes]:
        if info.flag_bits & 1:
            raise TextError(f"{name} is encrypted.", hint="Unpack the archive, then give its files.")
        with archive.open(info) as file:
            unpacked = iter(partial(file.read, BLOCK), b"")
            stream: Any = _Stream(limited_blocks(unpacked, lambda: info.compress_size, name))
            yield from decompressed_blocks(stream, name, lambda: stream.position)

    return blocks


def _tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: Path) -> OpenMember:
    def blocks() -> Iterator[bytes]:
        file = tar.extractfile(member)
        if file is not None:
            yield from decompressed_blocks(file, name)

    return blocks


@contextmanager
def _open_tar(path: Path) -> Generator[tarfile.TarFile]:
    stream: Any = _Stream(read_blocks(path))
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        yield tar


class _Stream:
    """Blocks as a file that is read from its beginning to its end."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.position = 0
        """Bytes that were read."""

    def read(self, size: int) -> bytes:
        pieces, length = [self._rest], len(self._rest)
        while length < size and (block := next(self._blocks, None)) is not None:  # decompressors return empty ones
            pieces.append(block)
            length += len(block)
        data = b"".join(pieces)
        self._rest = data[size:]
        self.position += min(size, len(data))
        return data[:size]


@contextmanager
def _damage_of(path: Path) -> Generator[None]:
    try:
        yield
    except DAMAGE as error:
        with path.open("rb") as file:
            known = misnamed(path, file.read(HEAD))
        raise known or TextError(f"Cannot unpack {path}: {error}.", hint="Download or pack it again.") from error
    except OSError as error:
        raise TextError(f"Cannot read {path}: {error.strerror or error}.") from error
