"""Files of a source and their documents, each file read by the reader of its suffix."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.archives.members import is_archive, iter_members, member_names
from fabella.text.boundaries.separator import unescape
from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.decoding.encoding_names import require_encoding
from fabella.text.folders import left_out_message, select_split, select_text
from fabella.text.paths import find_files
from fabella.text.readers import plain
from fabella.text.readers.reader import Reader, all_readers, reader_for

MANY_FILES = 20
"""Files of plain text from which on each file without markers is one document."""


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files of a source in order, with the options to read them."""

    paths: Sequence[Path]
    options: ReadOptions
    readers: Mapping[str, Reader]
    messages: Sequence[str]
    """Sentences about files that were left out."""
    split: str = "train"
    """Files to read of an archive in which names mark the splits."""

    def documents(self, path: Path, policy: DecodePolicy) -> Iterator[str]:
        """Yield the documents of one of the files. Raises TextError, as its reader does."""
        if _size(path) == 0:
            policy.notes.remarks[f"size of {path}"] = f"{path} is empty"
        elif is_archive(path):
            yield from self._of_archive(path, policy)
        else:
            yield from reader_for(path, self.readers).read(path, self.options, policy)

    def _of_archive(self, path: Path, policy: DecodePolicy) -> Iterator[str]:
        """Yield the documents of the text files in an archive. Raises TextError if there are none."""
        readers = {suffix: reader for suffix, reader in self.readers.items() if not hasattr(reader, "NEEDS_FILE")}
        names = [name for name in member_names(path) if not is_archive(name)]
        files, left_out = select_text(names, readers)
        chosen, message, _ = select_split(files, self.split, path)
        if not chosen:
            raise TextError(f"There is no text in {path}.", hint="Unpack it, then give the files in it.")
        if left_out:
            policy.notes.remarks[f"files of {path}"] = left_out_message(path, files, left_out)
        if message:
            policy.notes.remarks[f"split of {path}"] = f"{path}: {message}"
        one_text = self.options.one_text or sum(reader_for(name, readers) is plain for name in chosen) >= MANY_FILES
        kept = set(chosen)
        for name, opened in iter_members(path):
            if name in kept:
                options = replace(self.options, opened=opened, one_text=one_text)
                yield from reader_for(name, readers).read(name, options, policy)


def open_file_set(files: FilesSource) -> FileSet:
    """Return the files of a source. Raises TextError if there are none."""
    readers = all_readers()
    found = find_files(files.paths, files.split)
    if not files.separator:
        raise TextError("The separator is empty.", hint="Use auto, file, blank-lines, lines, or the separator itself.")
    options = ReadOptions(
        separator=unescape(files.separator),
        one_text=sum(reader_for(path, readers) is plain for path in found.files) >= MANY_FILES,
        column=files.column,
        encoding=require_encoding(files.encoding),
        keep_boilerplate=files.boilerplate == "keep",
    )
    return FileSet(found.files, options, readers, found.messages, files.split)


def documents(files: FilesSource, policy: DecodePolicy) -> Iterator[str]:
    """Yield the documents of every file in order. Raises TextError, also if a format needs an extra."""
    file_set = open_file_set(files)
    for message in file_set.messages:
        policy.notes.remarks[message] = message
    texts = (text for path in file_set.paths for text in file_set.documents(path, policy))
    return islice(texts, files.limit or None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TextError(f"Cannot read {path}: {error.strerror or error}.") from error
