"""Seeds of dropout in both engines."""

import hashlib


def dropout_seed(seed: int, step: int, row: int) -> int:
    """Return the 63-bit seed of the dropout of a micro-batch that starts at ``row`` of the global batch.

    As a function of its arguments it needs no random state in a checkpoint. It does not depend on the number of ranks
    either, as long as each rank takes complete micro-batches.
    """
    digest = hashlib.blake2b(f"{seed}:{step}:{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
