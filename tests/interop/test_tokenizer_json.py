"""Tests of tokenizer.json: ids and texts of random strings are those of the tokenizer, for every kind."""

import io
import json
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer as Library

from fabella.interop.export import export
from fabella.interop.tokenizer_json import cut_pattern, is_same_text, tokenizer_json, write_tokenizer
from fabella.tokenizers import loading
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer
from tests.end_to_end.test_foreign_tokenizers import KINDS
from tests.interop.tiny_exports import TEXTS, bpe, make_run, sentencepiece

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz ,.!?\n",
    " \t\n\r\v\f\u00a0\u2003\u3000\u2028▁",
    "ABCéüßñçœøåæ“”…你好世界мирこんابجदेव𝕏🙂👩‍🚀🇩🇪\u0301\u0327\u20e3\ufe0f\u200d\u200e\ufeff'0123٣Ⅻﬁ",
    "".join(map(chr, (*range(32), 127, 133, 0xFFFD, 0xFFFF, 0x10FFFF))) + "ab",
)
SPECIAL = (
    "<|endoftext|>", "<|endoftext", "</s>", "<s>", "<unk>", "<0x41>", "<0x0A>", "[UNK]", "[CLS]", "[SEP]", "[PAD0]",
    "##s", "<|im_start|>", "<|im_end|>", "<pad>", "▁the", "Ġthe", "Ċ", " the", "\\n", "&lt;",
)  # fmt: skip
"""What is or looks like a special token, a piece, a byte or an escape."""
QUICK, MANY, ALL = 1_000, 20_000, 100_000
"""Strings of the quick test, and of the slow one for an imported and for a trained tokenizer (`benchmarks/interop.py`
compares ALL of them, too)"""
BATCH = 2_000
OWN: dict[str, Callable[[], Tokenizer]] = {
    "bytes": ByteTokenizer,
    "bpe": bpe,
    "sentencepiece": sentencepiece,
}


def sentencepiece_model(folder: Path, **options: Any) -> None:
    """Write a SentencePiece model as that of Llama: spaces are kept, and other characters are bytes."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, byte_fallback=True, bos_id=1, eos_id=2, unk_id=0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_by_whitespace=True,
        hard_vocab_limit=False, minloglevel=3, num_threads=1, **options,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


FOREIGN: dict[str, Callable[[Path], None]] = {
    **{name: KINDS[name][0] for name in KINDS if name != "Llama"},
    "Llama": partial(sentencepiece_model, model_type="bpe", vocab_size=340),
    "Llama without a space put first": partial(
        sentencepiece_model, model_type="bpe", vocab_size=340, add_dummy_prefix=False
    ),
    "SentencePiece unigram": partial(sentencepiece_model, model_type="unigram", vocab_size=330),
}


@cache
def random_strings(count: int, seed: int = 1) -> list[str]:
    """Return strings of letters, spaces, other scripts, control characters, special tokens and any characters."""
    draw = random.Random(seed)
    return ["", *(_random_string(draw, number % 7) for number in range(count - 1))]


def _random_string(draw: random.Random, kind: int) -> str:
    length = draw.randrange(24)
    if kind < len(ALPHABETS):
        return "".join(draw.choices(ALPHABETS[kind], k=length))
    if kind == 4:
        points = (draw.randrange(0x110000) for _ in range(length))
        return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    if kind == 5:
        return "".join(draw.choice(draw.choice(ALPHABETS)) for _ in range(length))
    return "".join(draw.choice((draw.choice(SPECIAL), draw.choice(ALPHABETS[0]), " ")) for _ in range(length // 3))


def make(kind: str, folder: Path) -> Tokenizer:
    """Return a tokenizer that Fabella has trained, or one of another library, imported."""
    if kind in OWN:
        return OWN[kind]()
    folder.mkdir()
    FOREIGN[kind](folder)
    return loading.open_any(str(folder))


def batches(tokenizer: Tokenizer, count: int) -> Iterator[list[str]]:
    """Yield the strings. Without those that contain a special token if there is a chat template: then it is special."""
    special = tuple(tokenizer.special_tokens) if tokenizer.chat_template is not None else ()
    strings = random_strings(count)
    for start in range(0, count, BATCH):
        yield [text for text in strings[start : start + BATCH] if not any(token in text for token in special)]


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *((kind, QUICK) for kind in (*OWN, *FOREIGN)),
        *(pytest.param(kind, ALL if kind in OWN else MANY, marks=pytest.mark.slow) for kind in (*OWN, *FOREIGN)),
    ],
)
def test_an_exported_tokenizer_has_the_same_ids_and_texts(kind: str, count: int, tmp_path: Path) -> None:
    """Compare the tokenizers library and transformers' AutoTokenizer, both reading the exported files, with Fabella.

    AutoTokenizer, which takes most of the time, reads MANY strings.
    """
    from transformers import AutoTokenizer

    tokenizer = make(kind, tmp_path / "source")
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(tokenizer, out, context_length=10**6)
    theirs = AutoTokenizer.from_pretrained(str(out), local_files_only=True)
    library = Library.from_file(str(out / "tokenizer.json"))
    library.encode_special_tokens = tokenizer.chat_template is None
    first, compared = prefix_id(tokenizer), 0
    for texts in batches(tokenizer, count):
        expected = [ids.tolist() for ids in tokenizer.encode_many(texts)]
        decoded = library.decode_batch(expected)
        encoded = library.encode_batch_fast(texts)
        for text, ids, plain, encoding in zip(texts, expected, decoded, encoded, strict=True):
            assert encoding.ids == [first, *ids], repr(text)
            assert is_same_text(tokenizer.decode(ids), plain), repr(text)
            assert kind not in OWN or plain == text
        if compared < MANY:
            assert theirs.batch_decode(expected, skip_special_tokens=True) == decoded
            assert theirs(texts)["input_ids"] == [encoding.ids for encoding in encoded]
        compared += len(texts)
    assert compared > 0.8 * count


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("kind", ["WordPiece", "SentencePiece unigram"])
def test_a_run_with_a_tokenizer_from_elsewhere_is_exported_with_it(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama", make(kind, tmp_path / "source"))
    assert export(run, to="hf", out=tmp_path / "out").comparison.tokenizer == "equal"


@pytest.mark.parametrize(
    ("pieces", "pattern"),
    [
        (["a", "b"], r"(?<=<)(?=/s>)|(?<=<)(?=0x[0-9A-F]{2}>)"),
        (["</", "<0"], r"(?<=</)(?=s>)|(?<=<0)(?=x[0-9A-F]{2}>)"),
        (["</s>"], r"(?<=<)(?=0x[0-9A-F]{2}>)"),  # there is no place to cut
    ],
)
def test_special_tokens_in_a_text_are_cut_where_no_piece_is(pieces: list[str], pattern: str) -> None:
    assert cut_pattern(["</s>", "<0x0A>", "<0x41>"], pieces) == pattern


@pytest.mark.parametrize("make", [ByteTokenizer, bpe], ids=["bytes", "bpe"])
def test_random_ids_decode_to_the_same_text(make: Callable[[], Tokenizer]) -> None:
    """With SentencePiece, the library shows every byte of an incomplete character as U+FFFD, Fabella one per group."""
    tokenizer, draw = make(), random.Random(2)
    library = tokenizer_json(tokenizer)
    for _ in range(300):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(1, 12))]
        assert library.decode(ids) == tokenizer.decode(ids), ids
