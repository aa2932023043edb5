"""Streaming dataset: text → shuffled batches without a dataset on disk, resumable exactly after every batch.

    each source: documents, epoch after epoch ─▶ document shuffle buffer ─▶ tokenize ─┐
    mixture: the source furthest behind its share ◀─────────────────────────────────────────┘
        ─▶ pack into sequences ─▶ sequence shuffle buffer ─▶ batches

There is no random state: every choice is a function of the seed and a counter, and buffers are read again on resume.
The state is a few counters per source, as JSON.
"""

import json
from collections.abc import Sequence

import numpy as np

from fabella.config.data import Bytes, DataConfig, MixtureSource, Packed, Streaming
from fabella.data.batches import Batch
from fabella.data.dataset import dtype_for
from fabella.data.mixture import WeightPhase, weight_phases
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.tokenize import encode
from fabella.data.streaming.packing import SignedIds, packer, signed
from fabella.data.streaming.shuffle_buffer import ResumableStream, ShuffleBuffer, shuffled, varying_sizes
from fabella.data.streaming.sources import RepeatedSource, WeightedInterleave
from fabella.splitmix64 import splitmix64
from fabella.text.chat.template import ConversationWriter
from fabella.text.mixture import flatten_mixture
from fabella.tokenizers.chat.encode import DocumentEncoder
from fabella.tokenizers.loading import chat_template_of
from fabella.tokenizers.tokenizer import Tokenizer

TOKENIZE_DOCUMENTS = 64
"""Documents tokenized in one call: enough for the tokenizer to be fast, few enough for a short wait."""
TOKENIZE_BYTES = 2**18
"""Bytes tokenized in one call, at most one document more."""
DOCUMENT_BUFFER_BYTES = 2**26
"""Bytes of a document shuffle buffer, at most one document more: documents of 1 MiB must not fill the memory."""


class StreamingDataset:
    """Training batches of ``data`` under ``seed``. The order of sequences does not depend on the batch sizes."""

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, seed: int, state: str = "") -> None:
        """Open the stream after ``state`` (``Batch.stream`` of the last batch; empty: beginning). Raises TextError."""
        mode = data.mode
        assert isinstance(mode, Streaming), "data.mode is streaming"
        self._dtype, self._data = dtype_for(tokenizer.vocab_size), data
        template = tokenizer.chat_template or chat_template_of(data.chat_template, Bytes())
        writer = ConversationWriter(template, marks=True, mark_answer=data.loss_on == "answers")
        self._encoder = DocumentEncoder(tokenizer, special_tokens_in_text=data.special_tokens_in_text)
        rule = Corpus(data, None, writer).rule
        parts = [
            self._tokenized(
                RepeatedSource(source, data, rule, splitmix64(splitmix64(seed) + splitmix64(number)), writer),
                mode.document_shuffle_buffer,
                splitmix64(splitmix64(seed) + splitmix64(number)),
            )
            for number, (_, source) in enumerate(flatten_mixture(data.source), start=1)
        ]
        documents = _interleaved(parts, data)
        self._packer = packer(
            documents,
            data.sequences,
            tokenizer.eos_id,
            np.dtype(np.int32) if data.loss_on == "answers" else self._dtype,
            tokenizer.bos_id,
        )
        key = splitmix64(splitmix64(seed) + splitmix64(0))
        self._sequences = ShuffleBuffer(self._packer, shuffled(key), varying_sizes(mode.sequence_shuffle_buffer, key))
        if state:
            self._sequences.restore(json.loads(state))

    def _tokenized(self, source: RepeatedSource, buffer: int, key: int) -> ResumableStream[SignedIds]:
        """Return the documents of one source, shuffled by its buffer, as ids."""
        documents = ShuffleBuffer(
            source,
            shuffled(key),
            varying_sizes(buffer, key),
            size_of=len,
            max_size=DOCUMENT_BUFFER_BYTES,
        )
        return ShuffleBuffer(
            documents, self._encode, lambda _number: TOKENIZE_DOCUMENTS, size_of=len, max_size=TOKENIZE_BYTES
        )

    def _encode(self, texts: list[str], _number: int) -> Sequence[SignedIds]:
        encoded = encode(self._encoder, texts, self._dtype, loss_on=self._data.loss_on)
        ids = encoded.ids if encoded.loss_mask is None else signed(encoded.ids, encoded.loss_mask)
        return np.split(ids, np.cumsum(encoded.lengths)[:-1])

    def batch(self, size: int) -> Batch:
        """Return the next ``size`` sequences."""
        sequences = [self._sequences.next_item() for _ in range(size)]
        return self._packer.batch(sequences, json.dumps(self._sequences.state(), separators=(",", ":")))


def _interleaved(parts: Sequence[ResumableStream[SignedIds]], data: DataConfig) -> WeightedInterleave:
    """Return the documents of all sources. A phase ends with the document that completes its last sequence."""
    sequences = data.sequences
    phases = weight_phases(data.source) if isinstance(data.source, MixtureSource) else [WeightPhase(None, (1.0,))]
    packed = isinstance(sequences, Packed)
    step = sequences.stride if isinstance(sequences, Packed) else 1
    by_documents = isinstance(data.source, MixtureSource) and data.source.by == "documents"
    return WeightedInterleave(
        parts,
        [(None if phase.end is None else phase.end * step, phase.shares) for phase in phases],
        units_of=(lambda ids: 1) if by_documents else len if packed else (lambda ids: min(len(ids), sequences.length)),
        advance_of=len if packed else (lambda ids: int(len(ids) > 1)),
    )
