"""Prepare a dataset, kill the process at a random moment, and repeat. A separate program, so that forks are simple.

python -m tests.data.prepare.killed_while_preparing FOLDER KILLS WORKERS SEED → one JSON object on standard output
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from fabella.config.data import BPE, StorybookSource
from fabella.data.dataset import open_dataset
from fabella.data.prepare import pipeline as preparing
from tests.data.samples import content, data


def prepare_in_process(folder: Path, workers: int) -> None:
    preparing.prepare(data(StorybookSource(stories=20)), BPE(vocab_size=270), folder, workers=workers)


def prepare_in_child(folder: Path, workers: int, killed_after: float) -> int:
    """Prepare in a child that a timer kills if it still runs. Return its exit code."""
    pid = os.fork()
    if pid == 0:
        # With the default action of SIGALRM the kernel ends the process, so that no handler can clean up.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, killed_after)
        prepare_in_process(folder, workers)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(base: Path, kills: int, workers: int, seed: int) -> dict[str, int]:
    """Return the number of kills, and of faults found afterwards."""
    # Chunks so small that workers are used for any text.
    preparing.CHUNK_BYTES, preparing.CHUNKS_WITHOUT_WORKERS = 2000, 1
    # Import and build everything before the first fork.
    prepare_in_process(base / "first", 1)
    start = time.monotonic()
    prepare_in_child(base / "clean", workers, 0)
    seconds = time.monotonic() - start
    clean, source = content(base / "clean"), random.Random(seed)
    result = {"killed": 0, "half": 0, "different": 0, "left": 0}
    for number in range(kills):
        folder = base / f"killed-{number}"
        while prepare_in_child(folder, workers, source.uniform(0.001, seconds)) == 0 and not result["half"]:
            result["different"] += content(folder) != clean
            folder = base / f"killed-{number}-{source.random()}"
        result["killed"] += 1
        if folder.exists():
            open_dataset(folder, full=True)
        result["half"] += prepare_in_child(folder, workers, 0) != 0
        result["different"] += content(folder) != clean
        result["left"] += sum(path.name.startswith(f".{folder.name}.") for path in base.iterdir())
    return result


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    # The threads of the library would not survive a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(json.dumps(main(Path(folder), *map(int, numbers))))
