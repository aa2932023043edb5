"""Worker processes of a search (``python -m fabella.tuning.workers``); each runs trials until there are enough.

A worker reads its task as one JSON object on standard input and writes its output to ``worker-N.log``.
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
from fabella.data.prepare.pipeline import cores
from fabella.errors import FabellaError, StorageError, TrainingInterrupted
from fabella.run_config.files import validate_config
from fabella.storage import make_dirs, storage_errors
from fabella.storage.lock import lock_dir
from fabella.tracking.console import print_status
from fabella.tuning.space import Range
from fabella.tuning.study import Search, finished, open_study, requeue_stale_trials, work

POLL_SECONDS = 1.0
TERMINATE_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL for a worker."""
CHILD = [sys.executable, "-P", "-m", "fabella.tuning.workers"]


def search_in_parallel(
    search: Search, max_trials: int, workers: int, report: Callable[[Any], None] = lambda trial: None
) -> Any:
    """Search with this many processes until ``max_trials`` have finished, and return the study.

    ``report`` is called with each trial as it finishes. An interrupted search resumes: the trials of killed processes
    are queued again. Raises LockedError if another search runs in the directory, TrainingInterrupted after Ctrl-C.
    """
    with storage_errors(search.out, "creating the directory of the search"):
        make_dirs(search.out)
    with ExitStack() as locks:
        if not search.storage:  # a shared storage may have workers on other machines
            locks.enter_context(lock_dir(search.out, what="the search in"))
        study = open_study(search)
        if not search.storage:
            requeue_stale_trials(study)
        reported = {trial.number for trial in finished(study)}
        processes = [_start(search, max_trials, worker, workers) for worker in range(workers)]
        try:
            while any(process.poll() is None for process in processes):
                time.sleep(POLL_SECONDS)
                _report_finished(study, reported, report)
        except KeyboardInterrupt:
            raise TrainingInterrupted("Stopped. The same command resumes the search.") from None
        finally:
            _stop(processes)
        _report_finished(study, reported, report)
        _require_success(search, processes)
    return study


def _report_finished(study: Any, reported: set[int], report: Callable[[Any], None]) -> None:
    for trial in finished(study):
        if trial.number not in reported:
            reported.add(trial.number)
            report(trial)


def threads_of_worker(workers: int) -> int:
    """Return the threads of each worker: its share of OMP_NUM_THREADS or, without it, of the cores; at least 1."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(chosen) if chosen.isdecimal() else cores()) // workers)


def _start(search: Search, max_trials: int, worker: int, workers: int) -> "subprocess.Popen[str]":
    threads = str(threads_of_worker(workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (search.out / f"worker-{worker}.log").open("ab") as log:
        process = subprocess.Popen(
            CHILD,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
    assert process.stdin, "stdin is a pipe"
    task = _task(search, max_trials, single_process=workers == 1 and not search.storage)
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    return process


def _task(search: Search, max_trials: int, *, single_process: bool) -> dict[str, Any]:
    return {
        "run": search.run.model_dump(mode="json"),
        "space": {name: range_.model_dump(mode="json") for name, range_ in search.space.items()},
        "prepared": str(search.prepared.path.absolute()),
        "out": str(search.out.absolute()),
        "storage": search.storage,
        "seed": search.seed,
        "seeds": search.seeds,
        "device": search.device,
        "max_trials": max_trials,
        "single_process": single_process,
    }


def _stop(processes: "list[subprocess.Popen[str]]") -> None:
    """Terminate all workers; kill those that do not exit."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _require_success(search: Search, processes: "list[subprocess.Popen[str]]") -> None:
    for worker, process in enumerate(processes):
        if process.returncode:
            log = search.out / f"worker-{worker}.log"
            last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1]
            raise StorageError(
                f"Worker {worker} ended with code {process.returncode}: {last[:300]}", hint=f"Read {log}."
            )


def main() -> int:
    """Run the trials of the task on standard input and return an exit code."""
    parent = os.getppid()
    task = json.load(sys.stdin)
    search = Search(
        run=validate_config(task["run"]),
        space={name: TypeAdapter[Any](Range).validate_python(range_) for name, range_ in task["space"].items()},
        prepared=open_dataset(Path(task["prepared"])),
        out=Path(task["out"]),
        storage=task["storage"],
        seed=task["seed"],
        seeds=task["seeds"],
        device=task["device"],
    )
    try:
        work(
            search,
            task["max_trials"],
            single_process=task["single_process"],
            abandoned=lambda: os.getppid() != parent,
            report=print_status,
        )
    except FabellaError as error:
        print_status(str(error).replace("\n", " "))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
