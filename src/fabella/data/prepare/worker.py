"""Worker process that tokenizes documents: ``python -m fabella.data.prepare.worker``, started by worker_pool.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fabella.data.child_process import Frame, Handler, serve
from fabella.data.prepare.tokenize import encode, round_trip
from fabella.tokenizers import loading
from fabella.tokenizers.chat.encode import DocumentEncoder


def open_handler(request: dict[str, Any]) -> Handler:
    """Load the tokenizer at ``request["tokenizer"]``; the handler maps UTF-8 texts to their tokens."""
    tokenizer, dtype = loading.load(Path(request["tokenizer"])), np.dtype(request["dtype"])
    compare, loss_on = round_trip(tokenizer), request.get("loss_on", "all")
    encoder = DocumentEncoder(tokenizer, special_tokens_in_text=request.get("special_tokens_in_text", False))

    def handle(texts: Frame) -> Sequence[memoryview]:
        encoded = encode(encoder, [text.decode() for text in texts], dtype, compare, loss_on=loss_on)
        arrays = [encoded.ids, encoded.lengths, encoded.sizes, encoded.changes]
        if encoded.loss_mask is not None and encoded.learned_bytes is not None:
            arrays += [encoded.loss_mask.view(np.uint8), encoded.learned_bytes]
        return [array.data for array in arrays]

    return handle


if __name__ == "__main__":
    serve(open_handler)
