"""Sample texts and tokenizers for the tokenizer tests."""

import json
import random
from functools import cache
from itertools import islice
from typing import Any

from hypothesis import strategies as st

from fabella.config.data import BPE, Bytes, SentencePiece
from fabella.text.storybook.generator import stories
from fabella.tokenizers import bpe, loading, pretrained, sentencepiece
from fabella.tokenizers.tokenizer import Tokenizer

# Known to be lost by some tokenizers: marks of SentencePiece, NUL, unusual white space, combining characters.
AWKWARD = [
    "▁", "▁▁", " ▁", "a▁b", "\0", "\n", "\r\n", "\t", "\x1c", "\x1f", "\x85", "\u00a0", "\u1680", "\u2003", "\u2028",
    "\u3000", "\u180e", "\u200b", "\ufeff", "\ufffd", "\u2585", "é", "é", "ß", "İ", "ﬁ", "漢字",
    "नमस्ते", "👩‍👩‍👧", "🏳️‍🌈",
    "<|endoftext|>", "</s>", "<s>", "<unk>", "<0x41>", "<pad>", "[SEP]", "'s", "'S", "'re", "  ", "   x", "x   ",
    "\uff11\uff12",
]  # fmt: skip

scalars = st.characters(exclude_categories=("Cs",))
texts = st.one_of(
    st.text(scalars, max_size=60),
    st.lists(st.sampled_from([*AWKWARD, " ", "the", " story", "'", "1", "!?"]), max_size=20).map("".join),
    st.text("abc XYZ01'.,!\n\t ", max_size=80),
)


@cache
def corpus() -> tuple[str, ...]:
    """Return three hundred stories."""
    return tuple(islice(stories(300, seed=7), 300))


@cache
def trained(kind: str, vocab_size: int = 600) -> Tokenizer:
    """Return a tokenizer of this kind, trained on :func:`corpus`."""
    if kind == "bytes":
        return loading.train(Bytes(), ())
    if kind == "bpe":
        return bpe.train(BPE(vocab_size=vocab_size), corpus())
    if kind == "sentencepiece":
        return sentencepiece.train(SentencePiece(vocab_size=vocab_size), corpus())
    return pretrained.from_json(json.dumps(foreign_values()).encode(), "<|endoftext|>", "foreign")


@cache
def _bpe_json() -> str:
    tokenizer = bpe.train(BPE(vocab_size=400), corpus())
    return tokenizer._text  # pyright: ignore[reportPrivateUsage]


def foreign_values() -> dict[str, Any]:
    """Return a ``tokenizer.json`` with another pretokenizer, which is encoded by the library."""
    values = json.loads(_bpe_json())
    pattern = {"Regex": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}
    values["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return values


KINDS = ("bytes", "bpe", "sentencepiece", "pretrained")


def random_text(random_numbers: random.Random, length: int) -> str:
    """Return random code points of all planes except surrogates, half of the time mixed with letters and spaces."""
    numbers = (random_numbers.randrange(0x110000 - 0x800) for _ in range(length))
    text = "".join(chr(number if number < 0xD800 else number + 0x800) for number in numbers)
    if random_numbers.random() < 0.5:
        return text
    return "".join(random_numbers.choice((character, " ", "a", *AWKWARD[:12])) for character in text)
