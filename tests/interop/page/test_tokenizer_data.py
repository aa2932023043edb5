"""Tests that a page encodes text as Fabella does, and refuses a tokenizer that it cannot compute."""

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from fabella.errors import TokenizerError
from fabella.interop import page
from fabella.interop.page.node import node_command
from fabella.interop.page.tokenizer_data import tokenizer_data
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.huggingface import HuggingFaceTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from tests.interop.tiny_exports import TEXTS, bpe, sentencepiece

EOS = "<|endoftext|>"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ALPHABET = [*"aabcdeehillnoprstuwyTLS  \t\n\r'0123.,!?-\"<>|/_", "é", "ß", "\u017f", "你", "好", "🙂", "👩‍👩‍👧",
            "\u0085", "\u00a0", "\u3000", "\ufeff", "▁", "e\u0301", "'S", "n't", " the", " Lily", "<|endoftext|>",
            "</s>", "<0x41>", "\u2028", "\x1c", "٣", "Ⅻ"]  # fmt: skip
SCRIPT = """
const parts = require("node:vm").runInThisContext(
    require("node:fs").readFileSync(process.argv.at(-2), "utf8") + "\\n({ Tokenizer, Detokenizer })");
const { data, texts } = JSON.parse(require("node:fs").readFileSync(process.argv.at(-1), "utf8"));
const tokenizer = new parts.Tokenizer(data), shown = (ids) => {
    const detokenizer = new parts.Detokenizer(tokenizer);
    return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.end();
};
console.log(JSON.stringify(texts.map((text) => [tokenizer.encode(text), shown(tokenizer.encode(text))])));
"""


def on_page(tokenizer: Tokenizer, texts: list[str], folder: Path) -> list[list[Any]]:
    """Return the ids of each text and the text of the ids, as the page computes them."""
    node = node_command()
    if not node:
        pytest.skip("needs Node.js")
    request = folder / "request.json"
    request.write_text(json.dumps({"data": tokenizer_data(tokenizer), "texts": texts}))
    with resources.as_file(resources.files(page).joinpath("tokenizer.js")) as script:
        shutil.copy(script, folder / "tokenizer.js")
    command = [node, "--eval", SCRIPT, "--", str(folder / "tokenizer.js"), str(request)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def random_texts(count: int) -> list[str]:
    numbers = np.random.default_rng(5)
    sizes = numbers.integers(0, 40, count)
    return ["".join(numbers.choice(ALPHABET, size)) for size in sizes] + TEXTS[:3] + [" ".join(TEXTS)]


def hugging_face(library: Library) -> Tokenizer:
    library.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    return HuggingFaceTokenizer("pretrained", library.to_str(), EOS)


def trained_on(*steps: Any, normalizer: Any = None, **options: Any) -> Tokenizer:
    """Return a byte-level BPE whose text is split by ``steps`` first."""
    library = Library(models.BPE(**options))
    library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    library.train_from_iterator(TEXTS, trainer=trainer)
    return hugging_face(library)


def llama3() -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    return trained_on(split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), ignore_merges=True)


def smollm() -> Tokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return trained_on(digits, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.NFC())


def llama2() -> Tokenizer:
    """A BPE over characters with bytes for the others, a space put first, and ▁ for spaces."""
    pieces = [
        "<unk>",
        *(f"<0x{value:02X}>" for value in range(256)),
        *"▁abcdehilnoprstuwy",
        "▁t",
        "▁th",
        "he",
        "▁the",
        "ll",
    ]
    merges = [("▁", "t"), ("▁t", "h"), ("h", "e"), ("▁th", "e"), ("▁t", "he"), ("l", "l")]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    library = Library(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return hugging_face(library)


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), *((f"<0x{value:02X}>", -20.0) for value in range(256))]
    words = ["▁", *"abcdehilnoprstuwy", "▁the", "he", "▁th", "ll", "one", "on", "ed", "▁a", "time"]
    pieces += [(word, -2.5 - 0.37 * number / len(word)) for number, word in enumerate(words)]
    library = Library(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return hugging_face(library)


@pytest.mark.parametrize("make", [ByteTokenizer, bpe, sentencepiece, llama3, smollm, llama2, unigram])
def test_a_page_encodes_and_decodes_as_fabella(make: Any, tmp_path: Path) -> None:
    tokenizer, texts = make(), random_texts(400)
    for text, (ids, shown) in zip(texts, on_page(tokenizer, texts, tmp_path), strict=True):
        expected = tokenizer.encode(text).tolist()
        assert (text, ids) == (text, expected)
        assert shown == tokenizer.decode(expected)


def refused() -> list[tuple[str, Library]]:
    """Return tokenizers that a page cannot compute, with the part that the error names."""
    vocab = {"a": 0, "b": 1, "##b": 2}
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    word_piece = Library(models.WordPiece(vocab, unk_token="a"))
    word_piece.decoder = decoders.WordPiece()
    suffix = Library(models.BPE(vocab, [], end_of_word_suffix="</w>"))
    suffix.decoder = decoders.BPEDecoder()
    cases = [("the model WordPiece", word_piece), ("the end_of_word_suffix '</w>'", suffix)]
    splits = [r"\w+", r"\p{L}++", r"\bx", r"\p{Han}"]
    steps = [(f"in the pattern {pattern!r}", pre_tokenizers.Split(Regex(pattern), "isolated")) for pattern in splits]
    steps.append(("the pre-tokenizer Whitespace", pre_tokenizers.Whitespace()))
    steps.append(("the pre-tokenizer Split", pre_tokenizers.Split(" ", "removed")))
    for what, step in steps:
        library = Library(models.BPE(vocab, []))
        library.pre_tokenizer, library.decoder = pre_tokenizers.Sequence([step, level]), decoders.ByteLevel()
        cases.append((what, library))
    for what, normalizer in [("the normalizer Lowercase", normalizers.Lowercase()),
                             ("the normalizer Replace", normalizers.Replace(Regex("x+"), "y"))]:  # fmt: skip
        library = Library(models.BPE(vocab, []))
        library.normalizer, library.pre_tokenizer, library.decoder = normalizer, level, decoders.ByteLevel()
        cases.append((what, library))
    added = Library(models.BPE(vocab, []))
    added.pre_tokenizer, added.decoder = level, decoders.ByteLevel()
    added.add_tokens([AddedToken("<tool>", special=False)])
    return [*cases, ("the added token '<tool>'", added)]


@pytest.mark.fault("E15", cases=11)
@pytest.mark.parametrize(("what", "library"), refused(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_tokenizer_that_the_page_cannot_compute_is_refused_by_name(what: str, library: Library) -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_data(hugging_face(library))
    assert what in str(caught.value)
