"""Text as it is read → shuffled batches, without anything on disk; exact wherever it is gone on from.

    each source: documents, epoch after epoch ─▶ row buffer: shuffled ─▶ encoded ─┐
    mixture: which source is next, by weight ◀────────────────────────────────────┘
        ─▶ cut into windows ─▶ sequence buffer: shuffled ─▶ batches

Nothing is drawn from a random state: every choice is a function of the seed and a counter, and what a buffer holds is
read again. The whole state is a few counters for each source, as JSON.
"""

import json
from collections.abc import Sequence

import numpy as np

from fabella.config.data import DataConfig, Streaming
from fabella.data.batches import Batch
from fabella.data.dataset import TokenIds, dtype_for
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.splitting import SplitRule
from fabella.data.prepare.tokenize import encode
from fabella.data.streaming.packing import cutter
from fabella.data.streaming.shuffle_buffer import ResumableStream, ShuffleBuffer, shuffled, varying_sizes
from fabella.data.streaming.sources import RepeatedSource, WeightedInterleave
from fabella.splitmix64 import splitmix64
from fabella.text.resumable import Leaf, flatten_mixture
from fabella.tokenizers.tokenizer import Tokenizer

# Documents encoded in one call: enough for the tokenizer to be fast, few enough not to be waited for.
ENCODED_TOGETHER = 64
ENCODED_BYTES = 2**18
# A row buffer of documents of a mebibyte each must not fill the memory.
ROW_BUFFER_BYTES = 2**26


class StreamingDataset:
    """The training batches of ``data`` under ``seed``. Another size of batches cuts the same line of windows."""

    def __init__(self, data: DataConfig, tokenizer: Tokenizer, seed: int, state: str = "") -> None:
        """``state``: ``Batch.stream`` of the batch to go on after; empty: from the beginning. Raises TextError."""
        section = data.mode
        assert isinstance(section, Streaming), "a stream is asked for"
        self._tokenizer, self._dtype = tokenizer, dtype_for(tokenizer.vocab_size)
        rule = Corpus(data, None).rule
        sources = flatten_mixture(data.source)
        parts = [
            self._encoded(
                source, data, rule, section.document_shuffle_buffer, splitmix64(splitmix64(seed) + splitmix64(number))
            )
            for number, (_, source) in enumerate(sources, start=1)
        ]
        drawn = WeightedInterleave(parts, [weight for weight, _ in sources], seed)
        self._cutter = cutter(drawn, data.sequences, tokenizer.eos_id, self._dtype)
        key = splitmix64(splitmix64(seed) + splitmix64(0))
        self._windows = ShuffleBuffer(self._cutter, shuffled(key), varying_sizes(section.sequence_shuffle_buffer, key))
        if state:
            self._windows.restore(json.loads(state))

    def _encoded(
        self, source: Leaf, data: DataConfig, rule: SplitRule, buffer: int, key: int
    ) -> ResumableStream[TokenIds]:
        """The documents of one source, shuffled by its row buffer, as ids."""
        rows = ShuffleBuffer(
            RepeatedSource(source, data, rule, key),
            shuffled(key),
            varying_sizes(buffer, key),
            weigh=len,
            most=ROW_BUFFER_BYTES,
        )
        return ShuffleBuffer(rows, self._encode, lambda _number: ENCODED_TOGETHER, weigh=len, most=ENCODED_BYTES)

    def _encode(self, texts: list[str], _number: int) -> Sequence[TokenIds]:
        encoded = encode(self._tokenizer, texts, self._dtype)
        return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])

    def batch(self, size: int) -> Batch:
        """The next ``size`` windows."""
        windows = [self._windows.next_item() for _ in range(size)]
        return self._cutter.batch(windows, json.dumps(self._windows.state(), separators=(",", ":")))
