"""Compare every document with what its tokens say, to count what an imported tokenizer changes or loses."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import TokenIds
from fabella.errors import TokenizerError
from fabella.storage import format_share
from fabella.text.chat.marks import text_parts
from fabella.tokenizers.tokenizer import Tokenizer

DOCUMENTS, CHARACTERS, LOST, SPACE, WHITE_SPACE, LINE_ENDS, CASE = range(7)
"""Places in an array of counts: documents, characters, lost characters, and documents with each kind of change."""
KINDS = 7
CHANGES = {
    SPACE: "a space at the start or the end",
    WHITE_SPACE: "spaces and tabs",
    LINE_ENDS: "line ends",
    CASE: "upper case or accents",
}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Counts = NDArray[np.int64]


class RoundTrip:
    """Bytes of all tokens of a tokenizer, to decode many documents fast."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._table = [_bytes_of(tokenizer, number) for number in range(tokenizer.vocab_size)]

    def count(self, texts: Sequence[bytes], ids: Sequence[TokenIds]) -> Counts:
        """Return the counts of documents in UTF-8 and their ids (without EOS)."""
        counts = np.zeros(KINDS, np.int64)
        for raw, numbers in zip(texts, ids, strict=True):
            counts[DOCUMENTS] += 1
            decoded = b"".join([self._table[number] for number in numbers.tolist()])
            if decoded == raw:
                counts[CHARACTERS] += len(raw) if raw.isascii() else len(raw.decode())
            else:
                counts += _compare(raw.decode(), decoded.decode(errors="replace"))
        return counts


def _bytes_of(tokenizer: Tokenizer, number: int) -> bytes:
    try:
        return tokenizer.token_bytes(number)
    except TokenizerError:  # an id without a token, which no text is encoded to
        return b""


def _compare(text: str, decoded: str) -> Counts:
    counts = np.zeros(KINDS, np.int64)
    counts[CHARACTERS] = len(text)
    if text.strip(" ") == decoded.strip(" "):
        counts[SPACE] = 1
        return counts
    counts[LINE_ENDS] = text.count("\n") > decoded.count("\n")
    expected, found = _visible(text), _visible(decoded)
    if expected == found:
        counts[WHITE_SPACE] = not counts[LINE_ENDS]
        return counts
    lost = (Counter(_folded(expected)) - Counter(_folded(found))).total()
    counts[LOST] = min(lost, len(text))
    counts[CASE] = (Counter(expected) - Counter(found)).total() > lost
    return counts


def _visible(text: str) -> str:
    return "".join(text.replace(REPLACEMENT, "").split())


def _folded(text: str) -> str:
    """Return the text in lower case and without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def describe_changes(counts: Counts) -> Iterator[str]:
    """Yield a sentence for each kind of change."""
    documents = f"of {int(counts[DOCUMENTS]):,} documents"
    for kind, what in CHANGES.items():
        if counts[kind]:
            yield f"The tokenizer changes {what} in {int(counts[kind]):,} {documents}."
    if counts[LOST]:
        yield (
            f"The tokenizer loses {int(counts[LOST]):,} of {int(counts[CHARACTERS]):,} characters "
            f"({format_share(lost_share(counts))}): it has no tokens for them."
        )


class SpelledTokens:
    """Count of the documents that spell a special token of the tokenizer, which is encoded as plain text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = [token for token in tokenizer.special_tokens if len(token) > 2]
        # Most tokens begin alike, and most text has none of their beginnings.
        self._beginnings = {token[:2] for token in self._tokens}
        self._documents: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count a document."""
        if self._beginnings and any(beginning in text for beginning in self._beginnings):
            plain = "\0".join(text_parts(text))
            self._documents.update(token for token in self._tokens if token in plain)

    def messages(self) -> Iterator[str]:
        """Yield a sentence if there are such documents."""
        if self._documents:
            token, count = self._documents.most_common(1)[0]
            yield (
                f"{count:,} documents spell the special token {token}, which is encoded as text; "
                "data.special_tokens_in_text=true (prepare: --special-tokens-in-text) makes it one"
            )


def lost_share(counts: Counts) -> float:
    """Return the lost characters as a share of all characters, 0 to 1."""
    return float(counts[LOST] / max(counts[CHARACTERS], 1))


def require_few_lost(counts: Counts, limit: float) -> None:
    """Raise TokenizerError if more than the share ``limit`` of the characters is lost."""
    if lost_share(counts) > limit:
        raise TokenizerError(
            " ".join(describe_changes(counts)),
            hint="Train a tokenizer with byte fallback on this text, which loses nothing: --tokenizer bpe:4096 (train: "
            "tokenizer={kind: bpe, vocab_size: 4096}). To accept the loss: --max-lost-characters 1 "
            "(train: tokenizer.max_lost_characters=1).",
        )
