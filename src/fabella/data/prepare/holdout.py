"""Holdout by hash: whether a document is for validation depends only on its text."""

import hashlib

DIGEST_BYTES = 16
"""Bytes of a document hash."""


def document_hash(text: str) -> bytes:
    """Return the BLAKE2b hash of the text in UTF-8, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def in_holdout(digest: bytes, fraction: float) -> bool:
    """Return whether a document is in a holdout of ``fraction`` (0 to 1) of all distinct texts.

    Exact duplicates have the same hash, hence the same split. A larger fraction contains every smaller one.
    """
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
