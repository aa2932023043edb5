"""Word splitting, and the text of a tokenized split."""

import codecs
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import Split
from fabella.tokenizers.tokenizer import Tokenizer

# A word with its apostrophes, a character of a script without spaces, or a punctuation mark; case matters.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])\w)+(?:['\u2019]\w+)*|[^\w\s]"
)
DOCUMENT_END = "\0"
"""Separates documents: a word that no text contains."""
CHUNK_TOKENS = 2**18
"""Tokens that are decoded at once."""


def words(text: str) -> list[str]:
    """Return words and punctuation marks, in order."""
    return WORD.findall(text)


def text_of(split: Split, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of a split in chunks that end between words, with ``DOCUMENT_END`` after each document."""
    flat, starts, sizes = _token_bytes(tokenizer)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for start in range(0, split.tokens, CHUNK_TOKENS):
        ids = split.read(start, min(start + CHUNK_TOKENS, split.tokens)).astype(np.int64)
        ends = np.cumsum(sizes[ids])
        offsets = np.arange(ends[-1]) + np.repeat(starts[ids] - ends + sizes[ids], sizes[ids])
        chunk, space, rest = (rest + decoder.decode(flat[offsets].tobytes())).rpartition(" ")
        yield chunk + space
    yield rest + decoder.decode(b"", final=True)


def _token_bytes(tokenizer: Tokenizer) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return the bytes of all tokens, concatenated, with the start and the size of each token."""
    token_bytes = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    token_bytes[tokenizer.eos_id] = DOCUMENT_END.encode()
    sizes = np.array([len(data) for data in token_bytes], np.int64)
    return np.frombuffer(b"".join(token_bytes), np.uint8), np.cumsum(sizes) - sizes, sizes
