"""From a source of text to a prepared folder: look, learn the tokenizer, encode. Each is a pass over the text.

    documents ─ rule: which side? ─┬ sample of the training side → tokenizer
                                   └ chunks of 1 MiB → workers → train/ and validation/

The folder is written aside and renamed: killed at any moment, nothing or all of it is there, and the next attempt
gives the same bytes. Memory is bounded by the tokenizer's sample and a few chunks, whatever the size of the text.
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

import fabella
from fabella.config.data import DataConfig, Pretrained, Streaming, TokenizerConfig
from fabella.data.dataset import FORMAT, KIND, SPLITS, Split, SplitRecord, TokenizedDataset, dtype_for, open_dataset
from fabella.data.fingerprint import dataset_fingerprint, digest_of_text, file_stats, require_unchanged
from fabella.data.prepare import tokenizer_sample
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import CorpusSize, PrepareProgress, ProgressMeter, Report
from fabella.data.prepare.shard_writer import SplitWriter
from fabella.data.prepare.splitting import SplitDocument
from fabella.data.prepare.tokenize import TokenizedDocuments, encode
from fabella.data.prepare.worker_pool import Workers
from fabella.data.sequences import SequenceDataset
from fabella.errors import DataError, StorageError, TrainingInterrupted
from fabella.storage import MANIFEST, atomic_dir, read_manifest, storage_errors
from fabella.text.data_quality import DataQuality
from fabella.text.source import describe
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

__all__ = ["PrepareProgress", "prepare"]

CHUNK_BYTES = 2**20
CHUNK_DOCUMENTS = 4096
# Workers take half a second to start: a text of a few chunks is encoded here before they would be ready.
CHUNKS_HERE = 4
# Documents of a foreign tokenizer that are decoded again, to see whether it returns the text.
ROUND_TRIPS = 100


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    folder: Path,
    *,
    workers: int = 0,
    progress: Report | None = None,
    model_parameters: int = 0,
    tokens_to_train: int = 0,
    inputs: str = "",
) -> TokenizedDataset:
    """Prepare ``data`` in ``folder``; data already prepared there from the same inputs is taken as it is, also where
    another process prepares them at the same time and is the first to end.

    ``workers``: processes that encode; 0 for one a core. ``model_parameters`` and ``tokens_to_train``, where not 0,
    let the doctor judge whether the text is large enough. ``inputs``: ``digest_of_inputs(data, tokenizer)``, where it
    is known already, since it takes reading all files. Raises TextError, TokenizerError or DataError for the
    text, StorageError for the folder, Interrupted (nothing left behind) after Ctrl-C.
    """
    inputs = inputs or dataset_fingerprint(data, tokenizer)
    if os.path.lexists(folder):
        return _prepared_already(folder, inputs, data, tokenizer)
    try:
        with atomic_dir(folder) as aside:
            doctor = DataQuality()
            manifest = _fill(aside, data, tokenizer, doctor, progress, workers or cores())
            report = doctor.report(
                context=data.sequences.length, model_parameters=model_parameters, tokens_to_train=tokens_to_train
            )
            manifest |= {"inputs": inputs, "data_quality": {"facts": report.facts, "warnings": report.warnings}}
            with storage_errors(folder, f"writing {MANIFEST}"):
                (aside / MANIFEST).write_text(json.dumps(manifest))
    except KeyboardInterrupt:
        problem = f"Interrupted while preparing {folder}; nothing was left behind."
        raise TrainingInterrupted(problem, hint="Run the same command again.") from None
    except StorageError:
        if not os.path.lexists(folder):
            raise
        return _prepared_already(folder, inputs, data, tokenizer)  # another process was the first to end
    return open_dataset(folder)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepared_already(folder: Path, inputs: str, data: DataConfig, tokenizer: TokenizerConfig) -> TokenizedDataset:
    """What lies in ``folder``, if it was made from the same. Raises StorageError naming both where it was not."""
    try:
        manifest = read_manifest(folder)
    except StorageError as error:
        problem = f"{folder} exists already and holds no prepared data ({error.message})"
        raise StorageError(problem, hint="Choose another folder, or remove it.") from error
    if manifest.get("kind") != KIND or manifest.get("inputs") != inputs:
        there = (
            f"{manifest.get('description', 'something else')} ({_words(manifest.get('tokenizer', {}).get('section'))})"
        )
        asked = f"{describe(data.source)} ({_words(tokenizer.model_dump())})"
        raise StorageError(
            f"{folder} holds {there}, made from other text or settings than {asked}.",
            hint="Choose another folder, or remove it.",
        )
    prepared = open_dataset(folder)
    for split in (prepared.train, prepared.validation):
        SequenceDataset(split, data.sequences, prepared.tokenizer.eos_id)
    return prepared


def _words(section: Mapping[str, Any] | None) -> str:
    """``bpe, vocabulary 4096``"""
    values = dict(section or {})
    return ", ".join([str(values.pop("kind", "?")), *(f"{key} {value}" for key, value in values.items())])


def _fill(
    folder: Path, data: DataConfig, section: TokenizerConfig, doctor: DataQuality, report: Report | None, workers: int
) -> dict[str, Any]:
    """Write tokenizer and splits; the manifest, but for the doctor's part."""
    before = file_stats(data)
    passes = Corpus(data, report)
    tokenizer, remarks = _learn(passes, section, report)
    tokenizer.save(folder / "tokenizer")
    records = _encode(passes, tokenizer, folder, doctor, workers)
    require_unchanged(before, data)
    _require_windows(folder, records, data, tokenizer)
    return {
        "kind": KIND,
        "format": FORMAT,
        "fabella": fabella.__version__,
        "description": describe(data.source),
        **_of_data(data),
        "tokenizer": {
            "section": section.model_dump(mode="json"),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "end": tokenizer.eos_id,
        },
        "dtype": dtype_for(tokenizer.vocab_size).name,
        "notes": [*passes.sentences(), *remarks],
        **{name: record.model_dump(mode="json") for name, record in records.items()},
    }


def _of_data(data: DataConfig) -> dict[str, Any]:
    """What the manifest says of the text; that of a stream is compared when the stream is gone on with."""
    if isinstance(data.mode, Streaming):
        return {"data": data.model_dump(mode="json", exclude={"sequences"}), "text": digest_of_text(data)}
    return {"data": data.model_dump(mode="json", exclude={"sequences", "mode"})}


def _learn(passes: Corpus, section: TokenizerConfig, report: Report | None) -> tuple[Tokenizer, list[str]]:
    """The tokenizer, trained on the training side alone if it needs to be, and what to tell of it."""
    if not loading.needs_text(section):
        tokenizer = loading.train(section, ())
        changes = _changed_texts(passes, tokenizer) if isinstance(section, Pretrained) else []
        return tokenizer, changes
    taken = tokenizer_sample.sample_bytes(passes.split_documents("sampling"))
    if not taken.kept:
        raise DataError("No training document is left to learn a tokenizer from.", hint="Bring more text.")
    meter = ProgressMeter("learning the tokenizer", CorpusSize(bytes=taken.kept), report)
    return loading.train(section, meter.watch(taken.texts())), [taken.sentence()]


def _changed_texts(passes: Corpus, tokenizer: Tokenizer) -> list[str]:
    texts = [document.text for document in islice(passes.split_documents("looking"), ROUND_TRIPS)]
    changed = sum(tokenizer.decode(tokenizer.encode(text).tolist()) != text for text in texts)
    if not changed:
        return []
    return [f"the tokenizer changes text: {changed} of the first {len(texts)} documents do not come back as they were"]


def _encode(
    passes: Corpus, tokenizer: Tokenizer, folder: Path, doctor: DataQuality, workers: int
) -> dict[str, SplitRecord]:
    """Write both splits."""
    dtype = dtype_for(tokenizer.vocab_size)
    held_out: deque[list[bool]] = deque()
    chunks = _chunks(passes.split_documents("encoding"), doctor, held_out)
    with ExitStack() as stack:
        train, validation = (stack.enter_context(SplitWriter(folder / name, dtype)) for name in SPLITS)
        for encoded in _encoded(chunks, tokenizer, folder / "tokenizer", dtype, workers):
            doctor.add_token_counts(encoded.lengths)
            held = np.array(held_out.popleft())
            validation.append(encoded.select(held))
            train.append(encoded.select(~held))
    for name, split in zip(SPLITS, (train, validation), strict=True):
        if not split.documents:
            raise DataError(f"No {name} document is left.", hint="Bring more text, or another validation text.")
    return {"train": train.record(), "validation": validation.record()}


def _chunks(placed: Iterator[SplitDocument], doctor: DataQuality, held_out: deque[list[bool]]) -> Iterator[list[str]]:
    """Texts of about 1 MiB together; on which sides they are goes to ``held_out``."""
    texts: list[str] = []
    held: list[bool] = []
    size = 0
    for document in placed:
        doctor.add(document.text, document.digest, document.held_out)
        texts.append(document.text)
        held.append(document.held_out)
        size += len(document.text)
        if size >= CHUNK_BYTES or len(texts) >= CHUNK_DOCUMENTS:
            held_out.append(held)
            yield texts
            texts, held, size = [], [], 0
    if texts:
        held_out.append(held)
        yield texts


def _encoded(
    chunks: Iterator[list[str]], tokenizer: Tokenizer, folder: Path, dtype: "np.dtype[Any]", workers: int
) -> Iterator[TokenizedDocuments]:
    """The chunks encoded, in order: a few here, more by ``workers`` processes."""
    documents = 0
    for texts in islice(chunks, None if workers == 1 else CHUNKS_HERE):
        documents += len(texts)
        yield encode(tokenizer, texts, dtype)
    following = next(chunks, None)
    if following is not None:
        with Workers(folder, dtype, workers) as pool:
            yield from pool.encode(chain([following], chunks), first=documents)


def _require_windows(folder: Path, records: dict[str, SplitRecord], data: DataConfig, tokenizer: Tokenizer) -> None:
    """Raise DataError where a side has not even one window."""
    for name, record in records.items():
        SequenceDataset(Split(folder / name, record, tokenizer.vocab_size), data.sequences, tokenizer.eos_id)
