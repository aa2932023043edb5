"""A process that reads a stream ahead of the training: ``python -m fabella.data.streaming.reader_process``.

What to read comes first through its standard input, then the size of each batch. It ends when that input ends, even
in the middle of a download, so that it never outlives who started it. Signals are for its parent to answer, which may
want more batches before it stops: Ctrl-C, and those that a cluster sends to every process of a job.
"""

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from fabella.config.data import DataConfig
from fabella.data.pipe_messages import receive, send
from fabella.data.streaming.dataset import StreamingDataset
from fabella.errors import FabellaError
from fabella.tokenizers import loading

DONE, FAILED = b"done", b"failed"
FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Answer requests until standard input ends."""
    for number in FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    answers = sys.stdout.buffer
    try:
        stream = _opened(json.loads(requests.get()))
        while True:
            batch = stream.batch(int(requests.get()))
            shape = json.dumps(batch.tokens.shape).encode()
            send(answers, DONE, shape, batch.tokens.data, batch.targets.data, batch.stream.encode())
    except FabellaError as error:
        words = (type(error).__name__, error.message, error.hint)
        send(answers, FAILED, *(word.encode(errors="replace") for word in words))


def _listen(requests: "queue.SimpleQueue[bytes]") -> None:
    """Pass on what is asked for. Nobody there any more: end at once, whatever is being waited for."""
    # A file of its own: Python must not wait for this thread when it closes sys.stdin at its end.
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") as asked:
        try:
            while True:
                requests.put(receive(asked)[0])
        except EOFError:
            os._exit(0)


def _opened(asked: dict[str, Any]) -> StreamingDataset:
    tokenizer = loading.load(Path(asked["tokenizer"]))
    return StreamingDataset(DataConfig.model_validate(asked["data"]), tokenizer, asked["seed"], asked["state"])


if __name__ == "__main__":
    main()
