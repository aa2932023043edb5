"""Tests of the byte tokenizer."""

from hypothesis import given

from fabella.tokenizers.bytes import EOS_ID, ByteTokenizer
from tests.tokenizers.samples import texts

TOKENIZER = ByteTokenizer()


@given(text=texts)
def test_ids_are_the_bytes(text: str) -> None:
    assert TOKENIZER.encode(text).tolist() == list(text.encode())


def test_eos_is_a_byte_that_utf8_never_contains() -> None:
    assert EOS_ID == TOKENIZER.eos_id == 0xFF
    assert TOKENIZER.vocab_size == 256
    assert TOKENIZER.token_bytes(EOS_ID) == b""


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert TOKENIZER.decode([0x61, 0xC3, 0x62, 0xFE]) == "a\ufffdb\ufffd"
