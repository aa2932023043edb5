"""Which files of a directory are text to train on, and which of them are the training split.

A directory holds more than its text: a README, a licence, the metadata of a dataset, pages or code next to tables.
Every file that is not read is counted by its kind in a message.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from fabella.text.archives.members import is_archive
from fabella.text.readers.reader import Reader, format_suffix

GROUPS = ("text", "page", "code")
"""Groups of formats, the first one in a directory is read: text and tables, then web pages, then source code."""
ABOUT = re.compile(
    r"(?:readme|licen[cs]e|copying|notice|changelog|changes|contributing|code_of_conduct|citation|authors|requirements|"
    r"datasheet|dataset_?card)\b",
    re.IGNORECASE,
)
"""Names of files about a dataset."""
METADATA = re.compile(
    r"(?:dataset_infos?|dataset_dict|state|config|package(?:-lock)?|manifest|metadata|schema|tsconfig|vocab|tokenizer\w*|"
    r"special_tokens_map|generation_config|preprocessor_config|adapter_config|added_tokens|\w+\.schema|"
    # next to the chats in exports of ChatGPT, Claude and Slack
    r"users?|user_settings|message_feedback|shared_conversations|model_comparisons|"
    r"channels|groups|dms|mpims|integration_logs|canvases|huddle_transcripts)\.json",
    re.IGNORECASE,
)
"""Names of files with descriptions of a dataset, a model, a package, or the members of a chat."""
CACHE = re.compile(r"cache-[0-9a-f]+.*\.arrow")
"""Files in which the datasets library keeps the results of ``map``."""
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def select_text(files: Sequence[Path], readers: Mapping[str, Reader]) -> tuple[list[Path], list[Path]]:
    """Return (files to read, files left out) of a directory, both in the given order."""
    readable = [file for file in files if format_suffix(file) in readers and not _is_metadata(file)]
    texts = [file for file in readable if not ABOUT.match(file.name)]
    for group in GROUPS:
        chosen = [file for file in texts if _group(file, readers) == group]
        if chosen:
            # The README of a directory of Markdown is one of its texts.
            only_markdown = all(format_suffix(file) in (".md", ".markdown", ".rst") for file in chosen)
            chosen += [f for f in readable if only_markdown and f not in chosen and f.name.lower().startswith("readme")]
            break
    else:
        chosen = readable or [file for file in files if is_archive(file)]
    kept = set(chosen)
    return [file for file in files if file in kept], [file for file in files if file not in kept]


def _group(file: Path, readers: Mapping[str, Reader]) -> str:
    return getattr(readers[format_suffix(file)], "GROUP", "text")


def _is_metadata(file: Path) -> bool:
    return METADATA.fullmatch(file.name) is not None or CACHE.fullmatch(file.name) is not None


def left_out_message(directory: Path, files: Sequence[Path], left_out: Sequence[Path]) -> str:
    """Return ``read 1 of 19 files of DIRECTORY; left out 8 .html, 8 .py, README.md and LICENSE.txt``."""
    about = [file for file in left_out if ABOUT.match(file.name) or _is_metadata(file)]
    kinds = Counter(file.suffix.lower() or "without suffix" for file in left_out if file not in about)
    parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(8)]
    if len(kinds) > 8:
        parts.append(f"{sum(kinds.values()) - sum(count for _, count in kinds.most_common(8)):,} others")
    parts += [file.name for file in about[:3]] + ([f"{len(about) - 3:,} more like these"] if len(about) > 3 else [])
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    kind = next((suffix for suffix, _ in kinds.most_common() if suffix.startswith(".")), "")
    readable = kind and directory.is_dir()  # there are no patterns for files in an archive
    hint = f"; {quote(f'{directory}/**/*{kind}')} reads the {kind} files" if readable else ""
    return f"read {len(files):,} of {len(files) + len(left_out):,} files of {directory}; left out: {listed}{hint}"


def select_split(files: list[Path], split: str, root: Path) -> tuple[list[Path], str, frozenset[str]]:
    """Return the files of ``split``, a sentence about the others, and the splits that names below ``root`` mark.

    Splits count where at least one file is for training and one for validation or test: ``train.jsonl`` and
    ``valid.jsonl``, ``data/test-00000-of-00001.parquet``, ``validation/a.txt``.
    """
    names = {file: split_of(file, root) for file in files}
    splits = frozenset(names.values()) - {""}
    if "train" not in splits or len(splits) < 2 or len(files) < 2:
        return files, "", frozenset()
    if split == "all":
        return files, "", splits
    chosen = [file for file in files if names[file] == split]
    counts = Counter(names[file] or "unnamed" for file in files if names[file] != split)
    others = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    return (
        chosen,
        f"read the {split} split, {len(chosen):,} of {len(files):,} files by their names; not {others}",
        splits,
    )


def split_of(file: Path, root: Path) -> str:
    """Return train, validation or test, as the name of a file or of its directory below ``root`` says; else empty."""
    inside = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else file.parts[-2:-1]
    for part in (file.name, *reversed(inside)):
        words = re.split(r"[^a-z]+", part.partition(".")[0].lower())
        words = [word for word in words if word and word != "of"]
        for word in (words[:1] + words[-1:]) if part == file.name else (words if len(words) == 1 else []):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return ""
