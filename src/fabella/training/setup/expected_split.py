"""What ``fabella train`` would do with the splits of a text, foreseen by ``fabella check-data``."""

from collections.abc import Iterator

import numpy as np

from fabella.config.data import Source, TokenizerConfig
from fabella.data.dataset import too_small_hint
from fabella.data.prepare.round_trip import KINDS, describe_changes
from fabella.data.prepare.tokenize import encode, round_trip
from fabella.tokenizers import loading
from fabella.tokenizers.chat.encode import DocumentEncoder
from fabella.training.setup.suggest_config import bytes_per_token, suggest_config

NAMES = {False: "train", True: "validation"}


class ExpectedSplits:
    """Tokens of both splits: counted with an existing tokenizer, else estimated from their bytes.

    ``tokenizer``: None for the one that ``fabella train`` chooses for a text of that size.
    """

    def __init__(self, source: Source, tokenizer: TokenizerConfig | None) -> None:
        self._source, self._config = source, tokenizer
        known = loading.train(tokenizer, ()) if tokenizer and not loading.needs_text(tokenizer) else None
        self._encoder = DocumentEncoder(known) if known else None
        self._compare = round_trip(known) if known else None
        self._changes = np.zeros(KINDS, np.int64)
        self._bytes, self._documents, self._tokens = ({False: 0, True: 0} for _ in range(3))

    def add(self, text: str, held_out: bool) -> None:
        """Count one document; ``held_out`` means the validation split."""
        self._documents[held_out] += 1
        if self._encoder is None:
            self._bytes[held_out] += len(text.encode())
            return
        encoded = encode(self._encoder, [text], np.dtype(np.int32), self._compare)
        self._changes += encoded.changes
        self._tokens[held_out] += len(encoded.ids)
        self._bytes[held_out] += int(encoded.sizes.sum())

    def remarks(self) -> Iterator[str]:
        """Yield sentences about what an existing tokenizer makes of the text."""
        if self._encoder is not None:
            tokens, size = sum(self._tokens.values()), sum(self._bytes.values())
            yield f"tokens: {tokens:,} ({size / max(tokens, 1):.2f} bytes per token)"
            yield from describe_changes(self._changes)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence if a split is too small for one sequence: about the smaller one."""
        suggested = suggest_config(self._source, "text", sum(self._bytes.values()), gpu=False).run
        needed = suggested.data.sequences.length + 1
        rate = bytes_per_token(self._config or suggested.tokenizer)
        estimates = {side: int(self._bytes[side] / rate) + self._documents[side] for side in NAMES}
        counts = self._tokens if self._encoder else estimates
        tokens, held_out = min((count, side) for side, count in counts.items())
        if tokens < needed:
            yield (
                f"fabella train refuses this text: its {NAMES[held_out]} split has about {tokens:,} tokens, and a "
                f"sequence needs {needed:,}. {too_small_hint(tokens, needed)}"
            )
