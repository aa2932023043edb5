"""The words of a text, and the text of prepared ids."""

import codecs
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fabella.data.dataset import Split
from fabella.tokenizers.tokenizer import Tokenizer

# A word with its apostrophes; a character of a script that puts no spaces; or a mark. Case counts, space does not.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])\w)+(?:['\u2019]\w+)*|[^\w\s]"
)
BETWEEN = "\0"
"""Stands between documents: a word that no story has."""
IDS_AT_ONCE = 2**18


def words(text: str) -> list[str]:
    """Words and marks, in order."""
    return WORD.findall(text)


def text_of(split: Split, tokenizer: Tokenizer) -> Iterator[str]:
    """All text of prepared data in pieces that end between words, with ``BETWEEN`` after each document."""
    flat, starts, sizes = _spellings(tokenizer)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for start in range(0, split.tokens, IDS_AT_ONCE):
        ids = split.read(start, min(start + IDS_AT_ONCE, split.tokens)).astype(np.int64)
        ends = np.cumsum(sizes[ids])
        places = np.arange(ends[-1]) + np.repeat(starts[ids] - ends + sizes[ids], sizes[ids])
        whole, space, rest = (rest + decoder.decode(flat[places].tobytes())).rpartition(" ")
        yield whole + space
    yield rest + decoder.decode(b"", final=True)


def _spellings(tokenizer: Tokenizer) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of all ids in a row, where those of each begin, and how many it has."""
    spelled = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    spelled[tokenizer.eos_id] = BETWEEN.encode()
    sizes = np.array([len(each) for each in spelled], np.int64)
    return np.frombuffer(b"".join(spelled), np.uint8), np.cumsum(sizes) - sizes, sizes
