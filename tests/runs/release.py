"""Write the run directory of a release, which tests of all later versions read.

Run it once for each release with another format: ``python -m tests.runs.release tests/runs/released/v2``
"""

import sys
from pathlib import Path

from fabella.runs.checkpoint import save, set_best
from fabella.runs.metrics_log import append_row
from fabella.tokenizers.bytes import ByteTokenizer
from tests.runs import stub


def make(path: Path) -> None:
    """Write a run of ten steps with every kind of file except for a lock."""
    folder = stub.folder(path)
    folder.save_tokenizer(ByteTokenizer())
    for step in (5, 10):
        append_row(path / "metrics.jsonl", {"kind": "train", "step": step, "loss": 5.0 / step})
        save(folder, step, stub.checkpoint(step))
    set_best(folder, 10)
    append_row(path / "samples.jsonl", {"kind": "sample", "step": 10, "prompt": "Once", "text": "Once upon a time"})
    (path / ".lock").unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
