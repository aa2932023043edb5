"""Tests of tokenizer.json: ids and texts of random strings are those of the tokenizer, for every kind."""

import random
from collections.abc import Callable

import pytest

from fabella.interop.tokenizer_json import tokenizer_json
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from tests.interop.tiny_exports import bpe, sentencepiece

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz ,.!?\n",
    " \t\n\r\u00a0\u2003▁",
    "éüßñçœøåæ“”…你好世界мирこん🙂👩‍🚀\u0301\u200d",
    "<|endoftext|></s><unk><0x41>",
)
STRINGS = 1500
"""`benchmarks/interop.py` compares 100,000."""


def random_strings(count: int, seed: int = 1) -> list[str]:
    """Return strings of letters, spaces, letters of other scripts, special tokens and any characters."""
    draw = random.Random(seed)
    strings: list[str] = []
    for number in range(count):
        length = draw.randrange(1, 24)
        if number % 5 == 4:
            points = [draw.randrange(0x110000) for _ in range(length)]
            strings.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
        else:
            strings.append("".join(draw.choice(ALPHABETS[number % 5]) for _ in range(length)))
    return strings


@pytest.mark.parametrize("make", [ByteTokenizer, bpe, sentencepiece], ids=["bytes", "bpe", "sentencepiece"])
def test_random_strings_have_the_same_ids_and_decode_to_themselves(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    library = tokenizer_json(tokenizer)
    library.encode_special_tokens = True
    for text in random_strings(STRINGS):
        ids = library.encode(text).ids
        assert ids == [tokenizer.eos_id, *tokenizer.encode(text).tolist()], repr(text)
        assert library.decode(ids) == text


@pytest.mark.parametrize("make", [ByteTokenizer, bpe], ids=["bytes", "bpe"])
def test_random_ids_decode_to_the_same_text(make: Callable[[], Tokenizer]) -> None:
    """With SentencePiece, the library shows every byte of an incomplete character as U+FFFD, Fabella one per group."""
    tokenizer, draw = make(), random.Random(2)
    library = tokenizer_json(tokenizer)
    for _ in range(300):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(1, 12))]
        assert library.decode(ids) == tokenizer.decode(ids), ids
