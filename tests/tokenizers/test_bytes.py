"""The 256 bytes of UTF-8."""

from hypothesis import given

from fabella.tokenizers.bytes import END, ByteTokenizer
from tests.tokenizers.samples import texts

TOKENIZER = ByteTokenizer()


@given(text=texts)
def test_ids_are_the_bytes(text: str) -> None:
    assert TOKENIZER.encode(text).tolist() == list(text.encode())


def test_the_end_is_a_byte_that_utf8_never_has() -> None:
    assert END == TOKENIZER.eos_id == 0xFF
    assert TOKENIZER.vocab_size == 256
    assert TOKENIZER.token_bytes(END) == b""


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert TOKENIZER.decode([0x61, 0xC3, 0x62, 0xFE]) == "a\ufffdb\ufffd"
