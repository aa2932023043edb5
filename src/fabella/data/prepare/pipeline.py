"""Prepare a dataset: inspect the text, train the tokenizer, encode. Each phase is a pass over the text.

    documents ─ split rule ─┬ sample of the training split → tokenizer
                            └ chunks of 1 MiB → workers → train/ and validation/

The dataset is written to a temporary directory and renamed: a process killed at any moment leaves all or nothing, and
the next attempt writes the same bytes. Memory is bounded by the tokenizer sample and a few chunks.
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fabella
from fabella.config.data import DataConfig, Pretrained, TokenizerConfig
from fabella.data.dataset import (
    FORMAT,
    KIND,
    SPLITS,
    PartRecord,
    Split,
    SplitRecord,
    TokenizedDataset,
    dtype_for,
    open_dataset,
)
from fabella.data.fingerprint import dataset_fingerprint, file_stats, require_unchanged, text_fingerprint
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.parts import PartCounts, describe_text, require_sequences
from fabella.data.prepare.progress import PrepareProgress, Report
from fabella.data.prepare.round_trip import KINDS as CHANGES
from fabella.data.prepare.round_trip import Counts, SpelledTokens, describe_changes, require_few_lost
from fabella.data.prepare.shard_writer import SplitWriter
from fabella.data.prepare.tokenizer_sample import keep_chat_template, open_corpus, train_tokenizer
from fabella.data.prepare.worker_pool import encode_chunks
from fabella.errors import DataError, StorageError, TrainingInterrupted
from fabella.storage import MANIFEST, atomic_dir, read_manifest, storage_errors
from fabella.text.data_quality import DataQuality
from fabella.text.source import describe
from fabella.tokenizers.tokenizer import Tokenizer

__all__ = ["PrepareProgress", "prepare"]

CHUNK_BYTES = 2**20
"""Characters of a chunk, at most one document more."""
CHUNK_DOCUMENTS = 4096
"""Documents of a chunk at most."""
CHUNKS_WITHOUT_WORKERS = 4
"""Chunks encoded in this process before workers are started, which takes half a second."""


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    directory: Path,
    *,
    workers: int = 0,
    progress: Report | None = None,
    model_parameters: int = 0,
    tokens_to_train: int = 0,
    inputs: str = "",
) -> TokenizedDataset:
    """Prepare ``data`` in ``directory``, or open it if it was prepared there from the same inputs.

    The latter also if another process prepares it at the same time and finishes first. ``workers``: processes that
    encode; 0 means one per core. ``model_parameters`` and ``tokens_to_train``: if not 0, the data quality report
    checks whether the text is large enough. ``inputs``: ``dataset_fingerprint(data, tokenizer)`` if it is known, since
    it reads all files. Raises TextError, TokenizerError or DataError for the text, StorageError for the directory,
    TrainingInterrupted after Ctrl-C; nothing is left then.
    """
    inputs = inputs or dataset_fingerprint(data, tokenizer)
    if os.path.lexists(directory):
        return _open_existing(directory, inputs, data, tokenizer)
    try:
        with atomic_dir(directory) as temporary:
            quality = DataQuality()
            manifest, corpus = _write(temporary, data, tokenizer, quality, progress, workers or cores())
            report = quality.report(
                context=data.sequences.length,
                model_parameters=model_parameters,
                tokens_to_train=tokens_to_train,
                notes=corpus.notes,
            )
            manifest |= {"inputs": inputs, "data_quality": {"facts": report.facts, "warnings": report.warnings}}
            with storage_errors(directory, f"writing {MANIFEST}"):
                (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    except KeyboardInterrupt:
        problem = f"Interrupted while preparing {directory}; no files were left."
        raise TrainingInterrupted(problem, hint="Run the same command again.") from None
    except StorageError:
        if not os.path.lexists(directory):
            raise
        return _open_existing(directory, inputs, data, tokenizer)  # another process finished first
    return open_dataset(directory)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_existing(directory: Path, inputs: str, data: DataConfig, tokenizer: TokenizerConfig) -> TokenizedDataset:
    """Open the dataset in ``directory``. Raises StorageError if it was prepared from other inputs."""
    try:
        manifest = read_manifest(directory)
    except StorageError as error:
        problem = f"{directory} exists and is not a prepared dataset ({error.message})"
        raise StorageError(problem, hint="Choose another directory, or delete it.") from error
    if manifest.get("kind") != KIND or manifest.get("inputs") != inputs:
        existing = manifest.get("description", "something else")
        existing_tokenizer = _describe_tokenizer(manifest.get("tokenizer", {}).get("section"))
        requested = f"{describe(data.source)} ({_describe_tokenizer(tokenizer.model_dump())})"
        raise StorageError(
            f"{directory} contains {existing} ({existing_tokenizer}), prepared from another text or config "
            f"than {requested}.",
            hint="Choose another directory, or delete it.",
        )
    prepared = open_dataset(directory)
    require_sequences(prepared.train, prepared.validation, data, prepared.tokenizer, prepared.parts)
    return prepared


def _describe_tokenizer(config: Mapping[str, Any] | None) -> str:
    """Return ``bpe, vocab_size 4096``."""
    values = dict(config or {})
    return ", ".join([str(values.pop("kind", "?")), *(f"{key} {value}" for key, value in values.items())])


def _write(
    directory: Path,
    data: DataConfig,
    config: TokenizerConfig,
    quality: DataQuality,
    report: Report | None,
    workers: int,
) -> tuple[dict[str, Any], Corpus]:
    """Write tokenizer and splits; return the manifest without the data quality report, and the corpus that was read."""
    before = file_stats(data)
    corpus = open_corpus(data, config, report)
    tokenizer, remarks = train_tokenizer(corpus, config, report)
    tokenizer.save(directory / "tokenizer")
    records, changes, parts, more = _encode(corpus, data, tokenizer, directory, quality, workers)
    remarks += [*more, *keep_chat_template(corpus, data, tokenizer, directory / "tokenizer")]
    if isinstance(config, Pretrained):
        require_few_lost(changes, config.max_lost_characters)
    require_unchanged(before, data)
    train, validation = (Split(directory / name, records[name], tokenizer.vocab_size) for name in SPLITS)
    require_sequences(train, validation, data, tokenizer, parts)
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "fabella": fabella.__version__,
        "description": describe(data.source),
        **_data_entries(data),
        "tokenizer": {
            "section": config.model_dump(mode="json"),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "end": tokenizer.eos_id,
        },
        "dtype": dtype_for(tokenizer.vocab_size).name,
        "notes": [*corpus.messages(), *remarks, *describe_changes(changes), *describe_text(data.source, parts, train)],
        "parts": [part.model_dump(mode="json") for part in parts],
        **{name: record.model_dump(mode="json") for name, record in records.items()},
    }
    return manifest, corpus


def _data_entries(data: DataConfig) -> dict[str, Any]:
    """Return the manifest entries of the text; ``text`` is compared when training resumes with moved files."""
    excluded = {"sequences"} if data.mode.prepared_bytes else {"sequences", "mode"}
    return {"data": data.model_dump(mode="json", exclude=excluded), "text": text_fingerprint(data)}


class _Encoded(NamedTuple):
    """Records of the splits, what the tokenizer changes in the text, and the parts of a mixture."""

    splits: dict[str, SplitRecord]
    changes: Counts
    parts: list[PartRecord]
    remarks: list[str]


def _encode(
    corpus: Corpus, data: DataConfig, tokenizer: Tokenizer, directory: Path, quality: DataQuality, workers: int
) -> "_Encoded":
    """Write both splits."""
    changes = np.zeros(CHANGES, np.int64)
    dtype = dtype_for(tokenizer.vocab_size)
    splits: deque[list[tuple[bool, int]]] = deque()
    spelled = SpelledTokens(tokenizer)
    chunks = _chunks(corpus, quality, splits, spelled)
    parts = PartCounts(corpus.sources)
    with ExitStack() as stack:
        train, validation = (
            stack.enter_context(SplitWriter(directory / name, dtype, masked=data.loss_on == "answers"))
            for name in SPLITS
        )
        for encoded in encode_chunks(
            chunks,
            tokenizer,
            directory / "tokenizer",
            dtype,
            workers,
            first=CHUNKS_WITHOUT_WORKERS,
            special_tokens_in_text=data.special_tokens_in_text,
            loss_on=data.loss_on,
        ):
            quality.add_token_counts(encoded.lengths)
            changes += encoded.changes
            of_chunk = np.array(splits.popleft())
            in_validation = of_chunk[:, 0] == 1
            parts.add(encoded, in_validation, of_chunk[:, 1])
            validation.append(encoded.select(in_validation))
            train.append(encoded.select(~in_validation))
    for name, split in zip(SPLITS, (train, validation), strict=True):
        if not split.documents:
            raise DataError(f"No {name} document is left.", hint="Use more text, or another validation source.")
    remarks = [] if data.special_tokens_in_text else list(spelled.messages())
    return _Encoded({"train": train.record(), "validation": validation.record()}, changes, parts.records(), remarks)


def _chunks(
    corpus: Corpus, quality: DataQuality, all_splits: deque[list[tuple[bool, int]]], spelled: SpelledTokens
) -> Iterator[list[str]]:
    """Yield chunks of about 1 MiB; whether each document is held out, and its part, is appended to ``all_splits``."""
    texts: list[str] = []
    splits: list[tuple[bool, int]] = []
    size = 0
    for document in corpus.split_documents("encoding"):
        quality.add(document.text, document.digest, document.held_out)
        spelled.add(document.text)
        texts.append(document.text)
        splits.append((document.held_out, document.part))
        size += len(document.text)
        if size >= CHUNK_BYTES or len(texts) >= CHUNK_DOCUMENTS:
            all_splits.append(splits)
            yield texts
            texts, splits, size = [], [], 0
    if texts:
        all_splits.append(splits)
        yield texts
