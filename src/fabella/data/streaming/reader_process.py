"""Process that reads a stream ahead of training: ``python -m fabella.data.streaming.reader_process``.

Started by loader.py. A request is the size of a batch; the response is its shape, tokens, targets, document starts
(empty without masks) and stream state.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fabella.config.data import DataConfig
from fabella.data.child_process import Frame, Handler, serve
from fabella.data.streaming.dataset import StreamingDataset
from fabella.tokenizers import loading


def open_handler(request: dict[str, Any]) -> Handler:
    """Open the stream of ``request``: data config, tokenizer path, seed, and the state to resume from."""
    tokenizer = loading.load(Path(request["tokenizer"]))
    data = DataConfig.model_validate(request["data"])
    dataset = StreamingDataset(data, tokenizer, request["seed"], request["state"])

    def handle(parts: Frame) -> Sequence[bytes | memoryview]:
        batch = dataset.batch(int(parts[0]))
        shape = json.dumps(batch.tokens.shape).encode()
        starts = b"" if batch.document_starts is None else batch.document_starts.data
        return shape, batch.tokens.data, batch.targets.data, starts, batch.stream.encode()

    return handle


if __name__ == "__main__":
    serve(open_handler)
