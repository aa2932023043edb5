"""What prepared data is made of, and whether it is still that: sections, and the content of every file."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fabella.config.data import DataConfig, Pretrained, Streaming, TokenizerConfig
from fabella.data.dataset import FORMAT
from fabella.errors import TextError
from fabella.storage import sha256_of
from fabella.text import paths as finding
from fabella.text.source import source_files
from fabella.text.storybook import generator

# Enough stories to notice that another version of the generator writes other ones.
STORIES_COMPARED = 32
# Of a file that is streamed, at most four mebibytes; of all together about 256, however many there are.
SAMPLES, SAMPLES_OF_ALL, SAMPLE_BYTES = 64, 4096, 2**16

Stamp = list[tuple[str, int, int]]


def dataset_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """sha256 (hex) of all that decides the ids: equal for equal sections and files of equal names and contents.

    Where the files lie does not matter. A hub data set is known by its name and revision alone.
    """
    sections = {
        "format": FORMAT,
        **_text(data),
        "tokenizer": tokenizer.model_dump(mode="json"),
        "tokenizer files": _tokenizer_files(tokenizer),
    }
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def digest_of_text(data: DataConfig) -> str:
    """sha256 (hex) of what decides the text that is read; of files to be streamed, only samples are looked at."""
    return hashlib.sha256(json.dumps(_text(data), sort_keys=True).encode()).hexdigest()


def _text(data: DataConfig) -> dict[str, Any]:
    """The sections that decide the text. Those of prepared data are spelled as before there were streams."""
    values = data.model_dump(mode="json", exclude={"sequences", "mode"})
    if not isinstance(data.mode, Streaming):
        return {"data": _with_contents(values, whole)}
    return {"data": _with_contents(values, sampled), "head": data.mode.tokenizer_sample_bytes}


def _with_contents(values: Any, digests: Callable[[Sequence[Path]], list[str]]) -> Any:
    """The sections, with names and contents of files in place of paths, and what the storybook tells first."""
    if isinstance(values, list):
        return [_with_contents(value, digests) for value in values]
    if not isinstance(values, dict):
        return values
    changed = {key: _with_contents(value, digests) for key, value in values.items() if key != "paths"}
    if values.get("kind") == "files":
        files = finding.expand_paths(tuple(values["paths"]))
        changed["files"] = [(path.name, digest) for path, digest in zip(files, digests(files), strict=True)]
    if values.get("kind") == "storybook":
        stories = islice(generator.stories(STORIES_COMPARED, seed=values["seed"]), STORIES_COMPARED)
        changed["stories like"] = hashlib.sha256("\0".join(stories).encode()).hexdigest()
    return changed


def whole(files: Sequence[Path]) -> list[str]:
    """sha256 (hex) of all that is in each file."""
    return [sha256_of(file) for file in files]


def sampled(files: Sequence[Path]) -> list[str]:
    """sha256 (hex) of each file's size and of blocks spread evenly over it, the first and the last among them.

    For files too large to be read twice: the fewer they are, the more blocks of each. What is changed between the
    blocks is noticed when it is read again.
    """
    blocks = max(2, min(SAMPLES, SAMPLES_OF_ALL // max(len(files), 1)))
    return [_sampled(file, blocks) for file in files]


def _sampled(path: Path, blocks: int) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size}:".encode())
        last = max(size - SAMPLE_BYTES, 0)
        for start in sorted({last * number // (blocks - 1) for number in range(blocks)}):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _tokenizer_files(tokenizer: TokenizerConfig) -> list[tuple[str, str]]:
    if not isinstance(tokenizer, Pretrained) or not Path(tokenizer.source).expanduser().exists():
        return []
    path = Path(tokenizer.source).expanduser()
    names = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")
    files = [path / name for name in names] if path.is_dir() else [path]
    return [(file.name, sha256_of(file)) for file in files if file.is_file()]


def file_stats(data: DataConfig) -> Stamp:
    """Name, size and time of every file of text: cheap, to notice that one was changed meanwhile."""
    sources = [data.source, *([data.validation.source] if data.validation.kind == "source" else [])]
    files = [path for source in sources for path in source_files(source)]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def require_unchanged(before: Stamp, data: DataConfig) -> None:
    """Raise TextError where a file of text is not what it was at the time of ``before``."""
    try:
        after = file_stats(data)
    except FileNotFoundError as error:
        raise TextError(
            f"{error.filename} was removed while it was being prepared.", hint="Prepare it again."
        ) from error
    for then, now in zip(before, after, strict=False):
        if then != now:
            raise TextError(f"{then[0]} was changed while it was being prepared.", hint="Prepare it again.")
    if len(before) != len(after):
        raise TextError("Files came or went while they were being prepared.", hint="Prepare them again.")
