"""What every tokenizer shares: from ids to bytes by a table, and the refusal of text that is no Unicode."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError

Table = Sequence[bytes | None]
"""Bytes of each id; None where the tokenizer has no token of that id."""


def decode_bytes(table: Table, ids: Sequence[int]) -> bytes:
    """The bytes of ``ids``. Raises TokenizerError for an id that the tokenizer does not have."""
    numbers = np.asarray(ids, dtype=np.int64).tolist()
    if numbers and (min(numbers) < 0 or max(numbers) >= len(table)):
        stranger = next(number for number in numbers if not 0 <= number < len(table))
        raise unknown_id(stranger, len(table))
    return b"".join([one(table, number) for number in numbers])


def one(table: Table, token: int) -> bytes:
    """The bytes of one id. Raises TokenizerError for an id that the tokenizer does not have."""
    found = table[token] if 0 <= token < len(table) else None
    if found is None:
        raise unknown_id(token, len(table))
    return found


def unknown_id(token: int, vocab_size: int) -> TokenizerError:
    """The error for an id without a token."""
    return TokenizerError(
        f"Token id {token} is none of this tokenizer's; its ids are 0 to {vocab_size - 1}.",
        hint="Use the tokenizer that the text or the model was made with.",
    )


def utf8(text: str) -> bytes:
    """UTF-8 of a text. Raises TokenizerError for a lone surrogate, which no UTF-8 text can hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise no_text(text, error.start) from None


def no_text(text: str, position: int) -> TokenizerError:
    """The error for a lone surrogate at ``position``."""
    return TokenizerError(
        f"Character {position} of the text is U+{ord(text[position]):04X}, a lone surrogate: no Unicode text has one.",
        hint="Read the text with errors='replace', or remove it.",
    )


def as_ids(ids: Sequence[int]) -> NDArray[np.int32]:
    """A list of ids as the array that ``encode`` gives."""
    return np.array(ids, dtype=np.int32)
