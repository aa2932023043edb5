"""Program that trains runs in child processes and kills them. The children are forked, so that imports happen once.

python -m tests.faults.training_processes FOLDER CHAINS SEED → one JSON object on standard output
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fabella.runs.run_dir import RunDir
from fabella.training.run import resume, start_run
from tests.training import tiny


def run_in_child(work: Any) -> int:
    """Start ``work`` in a child process and return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Path(os.devnull).open("w", encoding="utf-8") as devnull:
                os.dup2(devnull.fileno(), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def resume_run(out: Path, data: Path) -> None:
    if (out / "config.yaml").exists():
        resume(out)
    else:
        start_run(tiny.run(), out, tiny.prepared(data))


def chain(out: Path, data: Path, kills: int, seconds: float, generator: random.Random) -> dict[str, int]:
    """Kill a run ``kills`` times, then let it finish. Return the most steps lost by one kill."""
    lost = 0
    for _ in range(kills):
        pid = run_in_child(lambda: resume_run(out, data))
        time.sleep(generator.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lost = max(lost, lost_steps(out))
    os.waitpid(run_in_child(lambda: resume_run(out, data)), 0)
    return {"lost": lost}


def lost_steps(out: Path) -> int:
    """Return the number of steps in the metrics after the latest checkpoint."""
    rows = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (out / "metrics.jsonl").exists() else []
    logged = max((json.loads(row)["step"] for row in rows), default=0)
    saved = RunDir.open(out).steps() if (out / "config.yaml").exists() else []
    return logged - max(saved, default=0)


def main(folder: Path, chains: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    generator = random.Random(seed)
    data = folder / "data"
    data.mkdir()
    tiny.prepared(data)
    uninterrupted = []
    for number in range(10):  # ten new processes, one after another
        start = time.monotonic()
        os.waitpid(run_in_child(lambda number=number: resume_run(folder / f"straight{number}", data)), 0)
        seconds = time.monotonic() - start
        uninterrupted.append(tiny.fingerprint(folder / f"straight{number}"))
    results = []
    for number in range(chains):
        out = folder / f"chain{number}"
        results.append(
            chain(out, data, generator.randint(1, 5), seconds, generator) | {"fingerprint": tiny.fingerprint(out)}
        )
    return {"straight": uninterrupted, "chains": results}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
