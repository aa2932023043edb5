"""The processes of a search (``python -m fabella.tuning.workers``): each does trials until there are enough.

What they are to do comes on standard input as one JSON object; what they say goes to ``worker-N.log`` in the folder.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fabella.data.dataset import open_dataset
from fabella.errors import FabellaError, StorageError, TrainingInterrupted
from fabella.run_config.files import validate_config
from fabella.storage import locked, make_folders, storage_errors
from fabella.tracking.console import print_status
from fabella.tuning.space import Range
from fabella.tuning.study import Search, ended, open_study, requeue_stale_trials, work

LOOK_SECONDS = 1.0
GRACE_SECONDS = 30.0
CHILD = [sys.executable, "-P", "-m", "fabella.tuning.workers"]


def search_together(
    search: Search, count: int, workers: int, report: Callable[[Any], None] = lambda trial: None
) -> Any:
    """Search with so many processes until ``count`` trials have come to an end; the study.

    ``report`` is given each trial as it ends. A search that was cut short goes on: trials of killed processes are
    begun again. Raises LockedError where another search is at work in the folder, Interrupted after Ctrl-C.
    """
    with storage_errors(search.out, "making the folder of the search"):
        make_folders(search.out)
    with ExitStack() as held:
        if not search.storage:  # other machines may be at work in one that is shared
            held.enter_context(locked(search.out, what="the search in"))
        study = open_study(search)
        if not search.storage:
            requeue_stale_trials(study)
        told = {trial.number for trial in ended(study)}
        started = [_start(search, count, worker, workers) for worker in range(workers)]
        try:
            while any(process.poll() is None for process in started):
                time.sleep(LOOK_SECONDS)
                _tell(study, told, report)
        except KeyboardInterrupt:
            raise TrainingInterrupted("Stopped; the same command goes on with the search.") from None
        finally:
            _stop(started)
        _tell(study, told, report)
        _require_good(search, started)
    return study


def _tell(study: Any, told: set[int], report: Callable[[Any], None]) -> None:
    for trial in ended(study):
        if trial.number not in told:
            told.add(trial.number)
            report(trial)


def _start(search: Search, count: int, worker: int, workers: int) -> "subprocess.Popen[str]":
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (search.out / f"worker-{worker}.log").open("ab") as log:
        process = subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, text=True, start_new_session=True
        )
    assert process.stdin, "a pipe was asked for"
    process.stdin.write(json.dumps(_as_words(search, count, alone=workers == 1 and not search.storage)))
    process.stdin.close()
    return process


def _as_words(search: Search, count: int, *, alone: bool) -> dict[str, Any]:
    return {
        "run": search.run.model_dump(mode="json"),
        "space": {name: range_.model_dump(mode="json") for name, range_ in search.space.items()},
        "prepared": str(search.prepared.folder.absolute()),
        "out": str(search.out.absolute()),
        "storage": search.storage,
        "seed": search.seed,
        "seeds": search.seeds,
        "device": search.device,
        "count": count,
        "alone": alone,
    }


def _stop(started: "list[subprocess.Popen[str]]") -> None:
    """Leave no process behind."""
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _require_good(search: Search, started: "list[subprocess.Popen[str]]") -> None:
    for worker, process in enumerate(started):
        if process.returncode:
            log = search.out / f"worker-{worker}.log"
            last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise StorageError(
                f"Worker {worker} ended with code {process.returncode}: {last[:300]}", hint=f"See {log}."
            )


def main() -> int:
    """Do the trials that are asked for on standard input."""
    parent = os.getppid()
    asked = json.load(sys.stdin)
    search = Search(
        run=validate_config(asked["run"]),
        space={name: TypeAdapter[Any](Range).validate_python(range_) for name, range_ in asked["space"].items()},
        prepared=open_dataset(Path(asked["prepared"])),
        out=Path(asked["out"]),
        storage=asked["storage"],
        seed=asked["seed"],
        seeds=asked["seeds"],
        device=asked["device"],
    )
    try:
        work(
            search, asked["count"], alone=asked["alone"], abandoned=lambda: os.getppid() != parent, report=print_status
        )
    except FabellaError as error:
        print_status(str(error).replace("\n", " "))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
