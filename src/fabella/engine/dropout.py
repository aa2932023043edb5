"""Where the randomness of dropout comes from, in both engines: no random state is kept or restored."""

import hashlib


def dropout_seed(seed: int, step: int, row: int) -> int:
    """A 63-bit seed for the dropout of a micro-batch that begins at ``row`` of the global batch.

    No random state has to be kept or restored, and where each process takes whole micro-batches, their number is no
    matter either.
    """
    digest = hashlib.blake2b(f"{seed}:{step}:{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
