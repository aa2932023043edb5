"""Fingerprint of a dataset: hash of its config and of the content of every file; and changes of files meanwhile."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fabella.config.data import Bytes, DataConfig, Pretrained, TokenizerConfig
from fabella.data.dataset import FORMAT
from fabella.errors import TextError
from fabella.storage import sha256_of
from fabella.text.paths import expand_paths
from fabella.text.readers.reader import format_suffix
from fabella.text.source import source_files
from fabella.text.storybook import generator
from fabella.tokenizers.chat.files import FILES as ABOUT
from fabella.tokenizers.loading import chat_template_of

READING = 3
"""Version of how text is read: another one gives other documents for the same files."""
STORIES_COMPARED = 32
"""Stories hashed, to notice that another version of the generator writes other ones."""
MAX_BLOCKS_PER_FILE, MAX_BLOCKS, BLOCK_BYTES = 64, 4096, 2**16
"""Blocks hashed of a streamed file and of all streamed files, and bytes per block: 4 MiB per file, 256 MiB in all."""

FileStats = list[tuple[str, int, int]]
"""(path, bytes, modification time in nanoseconds) of every file."""


def dataset_fingerprint(data: DataConfig, tokenizer: TokenizerConfig) -> str:
    """Return sha256 (hex) of everything that determines the ids: the config, and formats and contents of the files.

    Files may be moved and renamed. A hub dataset or tokenizer counts by its name and revision.
    """
    files = _tokenizer_files(tokenizer)
    sections = {
        "format": FORMAT,
        "reading": READING,
        **_text(data),
        "tokenizer": tokenizer.model_dump(mode="json", exclude={"source"} if files else set()),
        "tokenizer files": files,
        **_chat_template(data.chat_template),
    }
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def text_fingerprint(data: DataConfig) -> str:
    """Return sha256 (hex) of everything that determines the text; streamed files are hashed in samples."""
    return hashlib.sha256(json.dumps(_text(data), sort_keys=True).encode()).hexdigest()


def _text(data: DataConfig) -> dict[str, Any]:
    """Return the config that determines the text, with file contents in place of paths."""
    values = data.model_dump(mode="json", exclude={"sequences", "mode", "chat_template"})
    if data.loss_on == "all":
        del values["loss_on"]
    if not data.special_tokens_in_text:
        del values["special_tokens_in_text"]
    if data.duplicates.kind == "keep":
        del values["duplicates"]
    if not data.mode.prepared_bytes:
        return {"data": _with_contents(text_settings(values), full_hashes)}
    values = text_settings(values, weights=True)
    return {"data": _with_contents(values, sampled_hashes), "head": data.mode.prepared_bytes}


def text_settings(values: Any, *, weights: bool = False) -> Any:
    """Return a data config without the weights of mixtures, because a dataset has all documents of all parts.

    ``weights``: keep those of the parts, which decide the head of a stream.
    """
    if isinstance(values, list):
        return [text_settings(value, weights=weights) for value in values]
    if not isinstance(values, dict):
        return values
    if values.get("kind") == "mixture":
        kept = ("by", "parts") if weights else ("parts",)
        parts = {key: values[key] for key in kept}
        if not weights:
            parts["parts"] = [part["source"] for part in values["parts"]]
        return {"mixture": text_settings(parts, weights=weights)}
    return {key: text_settings(value, weights=weights) for key, value in values.items()}


def _with_contents(values: Any, digests: Callable[[Sequence[Path]], list[str]]) -> Any:
    """Replace paths by formats and hashes of files, and add a hash of the first stories of the storybook."""
    if isinstance(values, list):
        return [_with_contents(value, digests) for value in values]
    if not isinstance(values, dict):
        return values
    changed = {key: _with_contents(value, digests) for key, value in values.items() if key != "paths"}
    if values.get("kind") == "files":
        files = expand_paths(tuple(values["paths"]), values["split"])
        changed["files"] = [(format_suffix(path), digest) for path, digest in zip(files, digests(files), strict=True)]
    if values.get("kind") == "storybook":
        stories = islice(generator.stories(STORIES_COMPARED, seed=values["seed"]), STORIES_COMPARED)
        changed["stories like"] = hashlib.sha256("\0".join(stories).encode()).hexdigest()
    return changed


def full_hashes(files: Sequence[Path]) -> list[str]:
    """Return sha256 (hex) of the content of each file."""
    return [sha256_of(file) for file in files]


def sampled_hashes(files: Sequence[Path]) -> list[str]:
    """Return sha256 (hex) of the size of each file and of blocks spread evenly over it, including first and last.

    For files too large to be read twice: the fewer files, the more blocks of each. A change between the blocks is
    noticed on resume, when the text is read again.
    """
    blocks = max(2, min(MAX_BLOCKS_PER_FILE, MAX_BLOCKS // max(len(files), 1)))
    return [_sampled_hash(file, blocks) for file in files]


def _sampled_hash(path: Path, blocks: int) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size}:".encode())
        last = max(size - BLOCK_BYTES, 0)
        for start in sorted({last * number // (blocks - 1) for number in range(blocks)}):
            file.seek(start)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _chat_template(name: str) -> dict[str, Any]:
    """Return the text of a chat template that is not the tokenizer's own: a file may change."""
    if name in ("auto", "tokenizer"):
        return {}
    template = chat_template_of(name, Bytes())
    return {"chat template": [template.source, *template.special_tokens]}


def _tokenizer_files(tokenizer: TokenizerConfig) -> list[tuple[str, str]]:
    if not isinstance(tokenizer, Pretrained) or not Path(tokenizer.source).expanduser().exists():
        return []
    path = Path(tokenizer.source).expanduser()
    names = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "fabella.json")
    folders = [path, path / "tokenizer"] if path.is_dir() else []
    files = [folder / name for folder in folders for name in (*names, *ABOUT)]
    files = files or [path, *(path.with_name(name) for name in ABOUT)]
    # A single file may be renamed, unless its name says what it is.
    return [(file.suffix if file == path else file.name, sha256_of(file)) for file in files if file.is_file()]


def file_stats(data: DataConfig) -> FileStats:
    """Return size and modification time of every text file, to notice cheaply that one has changed."""
    sources = [data.source, *([data.validation.source] if data.validation.kind == "source" else [])]
    files = [path for source in sources for path in source_files(source)]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def require_unchanged(before: FileStats, data: DataConfig) -> None:
    """Raise TextError if a text file has changed since ``before``."""
    try:
        after = file_stats(data)
    except FileNotFoundError as error:
        raise TextError(f"{error.filename} was deleted during preparation.", hint="Run the command again.") from error
    for old, new in zip(before, after, strict=False):
        if old != new:
            raise TextError(f"{old[0]} was changed during preparation.", hint="Run the command again.")
    if len(before) != len(after):
        raise TextError("Files were added or deleted during preparation.", hint="Run the command again.")
