"""Added tokens that are not special, such as the runs of spaces of GPT-NeoX, are encoded as their library does."""

import json
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from fabella.config.data import Pretrained
from fabella.errors import TokenizerError
from fabella.interop.tokenizer_json import write_tokenizer
from fabella.tokenizers import pretrained
from fabella.tokenizers.huggingface import HuggingFaceTokenizer
from tests.tokenizers.samples import corpus

EOS = "<|endoftext|>"
STRINGS = 2000
"""Random strings for each kind of tokenizer"""
SPACES = [" " * number for number in range(24, 1, -1)]
ADDED = [*SPACES, "\t", "\n\n", "Tim", "éé", "<tool>", "Äb"]
PIECES = [
    " ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2003", "\u2028", "a", "Tim", "tim", "the", " Once",
    "é", "éé", "e\u0301", "Ä", "Äb", "<tool>", "<to", "0", "12", ".", "x", "🙂", "▁", "Ġ", "<|end",
]  # fmt: skip
OPTIONS: dict[str, dict[str, bool]] = {
    "normalized": {"normalized": True},
    "not normalized": {"normalized": False},
    "left": {"lstrip": True, "normalized": True},
    "right": {"rstrip": True, "normalized": False},
    "words": {"single_word": True, "normalized": False},
}
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(normalizer: Any = None, pre_tokenizer: Any = None) -> Library:
    library = Library(models.BPE())
    if normalizer:
        library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(library, trainers.BpeTrainer, 500, special_tokens=[EOS], initial_alphabet=alphabet)


def qwen() -> Library:
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    return byte_level(
        normalizers.NFC(), pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    )


def llama() -> Library:
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", EOS, *(f"<0x{value:02X}>" for value in range(256))]
    return _trained(library, trainers.BpeTrainer, 800, special_tokens=special)


def word_piece() -> Library:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return _trained(library, trainers.WordPieceTrainer, 300, special_tokens=["[UNK]", EOS])


def unigram() -> Library:
    library = Library(models.Unigram())
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return _trained(library, trainers.UnigramTrainer, 300, special_tokens=["<unk>", EOS], unk_token="<unk>")


def _trained(library: Library, trainer: Any, vocab_size: int, **options: Any) -> Library:
    library.train_from_iterator(corpus()[:100], trainer(vocab_size=vocab_size, show_progress=False, **options))
    return library


KINDS: dict[str, Callable[[], Library]] = {
    "gpt-2": byte_level,
    "gpt-neox": lambda: byte_level(normalizers.NFC()),
    "qwen": qwen,
    "llama": llama,
    "word pieces": word_piece,
    "unigram": unigram,
}


@cache
def tokenizer_file(kind: str, option: str) -> str:
    """Return a ``tokenizer.json`` with added tokens that are not special."""
    library = Library.from_str(_base(kind))
    # The normalizer of BERT makes a space of a tab and of a line end, and lower case: such tokens would be equal.
    equal = {"\t", "\n\n", "éé"} if kind == "word pieces" and OPTIONS[option].get("normalized", False) else set[str]()
    texts = [text for text in ADDED if text not in equal]
    library.add_tokens([AddedToken(text, special=False, **OPTIONS[option]) for text in texts])
    return library.to_str()


@cache
def _base(kind: str) -> str:
    return KINDS[kind]().to_str()


def strings(count: int) -> Iterator[str]:
    """Yield random strings rich in white space: runs of up to thirty, at the edges and between words."""
    random = Random(5)
    for _ in range(count):
        yield "".join(
            random.choice(PIECES) * (random.choice((1, 2, 5, random.randint(1, 30))) if random.random() < 0.4 else 1)
            for _ in range(random.randint(0, 12))
        )


def read(kind: str, option: str) -> HuggingFaceTokenizer:
    return pretrained.from_json(tokenizer_file(kind, option).encode(), EOS, "tokenizer.json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.fault("G1", cases=STRINGS)
def test_ids_are_those_of_the_library_and_the_text_comes_back(kind: str) -> None:
    texts = list(strings(STRINGS))
    share = STRINGS // len(OPTIONS)
    for number, option in enumerate(OPTIONS):
        tokenizer, library = read(kind, option), Library.from_str(tokenizer_file(kind, option))
        some = texts[number * share : (number + 1) * share]
        expected = [encoding.ids for encoding in library.encode_batch(some, add_special_tokens=False)]
        assert [tokenizer.encode(text).tolist() for text in some] == expected, option
        assert [ids.tolist() for ids in tokenizer.encode_many(some)] == expected, option
        assert any(set(ids) & {library.token_to_id(text) for text in SPACES} for ids in expected) or option == "words"
        if kind in ("gpt-2", "gpt-neox", "qwen") and option not in ("left", "right"):  # those drop white space
            returned = some if kind == "gpt-2" else [composed(text) for text in some]
            assert [tokenizer.decode(ids) for ids in expected] == returned, option


def composed(text: str) -> str:
    """Return what a tokenizer with the normalizer NFC reads."""
    return unicodedata.normalize("NFC", text)


def test_added_tokens_of_a_saved_tokenizer_stay_as_they_are(tmp_path: Path) -> None:
    for kind in ("gpt-neox", "llama"):
        for option in OPTIONS:
            before = read(kind, option)
            (tmp_path / kind / option).mkdir(parents=True)
            before.save(tmp_path / kind / option)
            after = pretrained.from_saved(tmp_path / kind / option)
            assert after.fingerprint == before.fingerprint
            assert [after.encode(text).tolist() for text in strings(50)] == [
                before.encode(text).tolist() for text in strings(50)
            ]


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "GPTNeoXTokenizerFast"])
def test_ids_are_those_of_transformers_before_and_after_export(name: str, tmp_path: Path) -> None:
    import transformers

    source, exported = tmp_path / "source", tmp_path / "exported"
    exported.mkdir()
    library = Library.from_str(tokenizer_file("gpt-neox", "normalized"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token=EOS).save_pretrained(source)
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": name}), encoding="utf-8")
    (source / "config.json").write_text('{"model_type": "gpt_neox"}', encoding="utf-8")
    ours = pretrained.load(Pretrained(source=str(source)))
    write_tokenizer(ours, exported, 64)
    theirs, again = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (source, exported))
    for text in strings(300):
        ids = ours.encode(text).tolist()
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert again(text, add_special_tokens=False).input_ids == ids
        assert ours.decode(ids) == composed(text)
        if not {library.token_to_id(token) for token in ("éé", "Äb")} & set(ids):  # whose letters it reads as bytes
            assert again.decode(ids) == composed(text)
    entries = [
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        for folder in (source, exported)
    ]
    assert entries[0] == entries[1]


@pytest.mark.parametrize(
    ("texts", "normalizer", "refused"),
    [
        (("Tim", "tim"), normalizers.Lowercase(), "'Tim' and 'tim'"),
        (("\n\n", "  "), normalizers.BertNormalizer(), r"'\\n\\n' and '  '"),
        (("Tim", "tom"), normalizers.Lowercase(), ""),
        (("Tim", "tim"), normalizers.NFC(), ""),
    ],
)
def test_added_tokens_that_are_equal_after_normalization_are_refused(
    texts: tuple[str, str], normalizer: Any, refused: str
) -> None:
    """The library encodes one of them, another one in each process: no run could be resumed to the same bits."""
    library = byte_level(normalizer)
    library.add_tokens([AddedToken(text, special=False, normalized=True) for text in texts])
    if not refused:
        assert pretrained.from_json(library.to_str().encode(), EOS, "tokenizer.json").encode(texts[0]).size == 1
        return
    with pytest.raises(TokenizerError, match=f"The added tokens {refused} are equal after normalization"):
        pretrained.from_json(library.to_str().encode(), EOS, "tokenizer.json")
