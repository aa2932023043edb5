"""The bytes of a token follow from the decoder of its ``tokenizer.json``."""

from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from fabella.errors import TokenizerError
from fabella.tokenizers import pretrained, vocab_bytes


def test_the_byte_alphabet_equals_that_of_the_library() -> None:
    assert set(vocab_bytes.LETTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    decoder = decoders.ByteLevel()
    for letter, value in vocab_bytes.LETTERS.items():
        if value < 128:
            assert decoder.decode([letter]) == chr(value)


def values(decoder: dict[str, Any] | None, *tokens: str) -> dict[str, Any]:
    vocab = {token: number for number, token in enumerate(tokens)}
    return {"decoder": decoder, "model": {"type": "BPE", "vocab": vocab}, "added_tokens": []}


REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
LLAMA = {"type": "Sequence", "decoders": [
    REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
]}  # fmt: skip


@pytest.mark.parametrize(
    ("decoder", "token", "expected"),
    [
        ({"type": "ByteLevel"}, "Ġa", b" a"),
        ({"type": "ByteLevel"}, "Ã", b"\xc3"),
        ({"type": "ByteLevel"}, "漢", "漢".encode()),
        (LLAMA, "▁Once", b" Once"),
        (LLAMA, "<0xE2>", b"\xe2"),
        (LLAMA, "<0xe2>", b"<0xe2>"),
        ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}, "_a▁", " a▁".encode()),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "##ing", b"ing"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "sing", b" sing"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "ing</w>", b"ing "),
    ],
)
def test_bytes_of_a_token(decoder: dict[str, Any], token: str, expected: bytes) -> None:
    assert vocab_bytes.bytes_table(values(decoder, token)) == [expected]


def test_added_and_unknown_tokens_and_gaps() -> None:
    described = values({"type": "ByteLevel"}, "a", "<unk>")
    described["model"]["unk_token"] = "<unk>"
    described["added_tokens"] = [
        {"id": 3, "content": "<end>", "special": True}, {"id": 4, "content": "Ġ plain", "special": False}
    ]  # fmt: skip
    assert vocab_bytes.bytes_table(described) == [b"a", "\ufffd".encode(), None, b"", "Ġ plain".encode()]


def test_a_unigram_vocabulary_is_a_list() -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁a", -1.0]]}
    described = {"decoder": {"type": "Metaspace", "replacement": "▁"}, "model": model, "added_tokens": None}
    assert vocab_bytes.bytes_table(described) == ["\ufffd".encode(), b" a"]


@pytest.mark.parametrize("decoder", [None, {"type": "CTC"}, {"type": "Sequence", "decoders": [{"type": "Fuse"}]}])
def test_other_decoders_are_refused(decoder: dict[str, Any] | None) -> None:
    with pytest.raises(TokenizerError, match=r"Unsupported decoder of the tokenizer: .*Supported are ByteLevel"):
        vocab_bytes.bytes_table(values(decoder, "a"))


def test_a_tokenizer_like_llamas_returns_text_after_the_space_it_adds() -> None:
    letters = {f"<0x{value:02X}>": 2 + value for value in range(256)}
    vocab = {"<unk>": 0, "</s>": 1, **letters, "▁": 258, "a": 259, "▁a": 260}
    library = Library(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = pretrained.from_json(library.to_str().encode(), "</s>", "llama")
    for text in ("a é a", "漢", "</s>"):
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == " " + text
