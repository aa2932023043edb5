"""Runs that are killed, in processes of their own: forked from this one, which has everything loaded.

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
    """Do ``work`` in a child; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Path(os.devnull).open("w", encoding="utf-8") as nothing:
                os.dup2(nothing.fileno(), 2)
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


def chain(out: Path, data: Path, kills: int, seconds: float, chance: random.Random) -> dict[str, int]:
    """Kill a run ``kills`` times, at moments within ``seconds``, then let it end; steps lost at most at one kill."""
    lost = 0
    for _ in range(kills):
        pid = run_in_child(lambda: resume_run(out, data))
        time.sleep(chance.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lost = max(lost, lost_steps(out))
    os.waitpid(run_in_child(lambda: resume_run(out, data)), 0)
    return {"lost": lost}


def lost_steps(out: Path) -> int:
    """Steps told of in the metrics that no checkpoint holds."""
    rows = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (out / "metrics.jsonl").exists() else []
    told = max((json.loads(row)["step"] for row in rows), default=0)
    saved = RunDir.open(out).steps() if (out / "config.yaml").exists() else []
    return told - max(saved, default=0)


def main(folder: Path, chains: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    data = folder / "data"
    data.mkdir()
    tiny.prepared(data)
    straight = []
    for number in range(10):  # ten fresh processes, one after the other
        began = time.monotonic()
        os.waitpid(run_in_child(lambda number=number: resume_run(folder / f"straight{number}", data)), 0)
        seconds = time.monotonic() - began
        straight.append(tiny.fingerprint(folder / f"straight{number}"))
    results = []
    for number in range(chains):
        out = folder / f"chain{number}"
        results.append(chain(out, data, chance.randint(1, 5), seconds, chance) | {"fingerprint": tiny.fingerprint(out)})
    return {"straight": straight, "chains": results}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
