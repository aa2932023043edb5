"""Which documents are held out for validation: decided by the text alone, so that equal texts never part."""

import hashlib

DIGEST_BYTES = 16


def document_hash(text: str) -> bytes:
    """BLAKE2b of the text's UTF-8, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def in_holdout(digest: bytes, fraction: float) -> bool:
    """Whether a document belongs to validation when ``fraction`` (0 … 1) of all distinct texts shall.

    Exact duplicates share their digest, hence their side. A larger fraction holds out what a smaller one did, and more.
    """
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
