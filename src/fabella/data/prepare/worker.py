"""A process that encodes what it is sent: ``python -m fabella.data.prepare.worker TOKENIZER_FOLDER DTYPE``.

It is fed through its standard input and ends when that ends, so that it never outlives who started it, however
that one ended. It ignores Ctrl-C, which is for its parent to answer.
"""

import signal
import sys
from pathlib import Path

import numpy as np

from fabella.data.pipe_messages import receive, send
from fabella.data.prepare.tokenize import encode
from fabella.errors import FabellaError
from fabella.tokenizers import loading

DONE, FAILED = b"done", b"failed"


def main(folder: str, dtype: str) -> None:
    """Answer requests with the ids of their texts until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = loading.load(Path(folder))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            texts = receive(requests)
        except EOFError:
            return
        try:
            encoded = encode(tokenizer, [text.decode() for text in texts], np.dtype(dtype))
        except FabellaError as error:
            send(answers, FAILED, error.message.encode(errors="replace"), error.hint.encode(errors="replace"))
        else:
            send(answers, DONE, encoded.ids.data, encoded.lengths.data, encoded.sizes.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
