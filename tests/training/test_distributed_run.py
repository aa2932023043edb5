"""Tests that runs on several ranks stop, fail and resume together: a signal or failure of one rank reaches all."""

import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.engine.distributed import launcher_torch
from fabella.engine.distributed.process_group import SingleProcess
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError, DistributedError, NumericsError
from fabella.runs.branch import load_initial_weights
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.training import distributed_run
from fabella.training.run import start_run
from tests.processes import reserved_port
from tests.source_tree import REPOSITORY
from tests.training import rank_work, tiny

STEPS = 16
# Each of the sixteen steps of Adam may amplify a rounding error of 1e-7.
LOSS_TOLERANCE = 1e-4
SECONDS = 600  # timeout of a process


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def job(
    out: Path, data: TokenizedDataset, *overrides: str, failure: tuple[int, int, str] | None = None
) -> dict[str, Any]:
    settings = ["training.parallel.timeout_seconds=20", "model.dropout=0.0", *overrides]
    return {"out": str(out), "prepared": str(data.path), "overrides": settings, "steps": STEPS, "failure": failure}


def run(processes: int, values: dict[str, Any]) -> int:
    """Launch the processes and return their exit code, as ``--devices`` does."""
    try:
        return launcher_torch.launch(processes, rank_work.work, values)
    except DistributedError as error:
        return error.exit_code


@pytest.fixture(scope="module")
def uninterrupted(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an uninterrupted run on two processes."""
    out = tmp_path_factory.mktemp("runs") / "two"
    assert run(2, job(out, data)) == 0
    return out


def log_of(out: Path, rank: int) -> str:
    return Path(f"{out}.{rank}.log").read_text()


def losses(out: Path, kind: str) -> list[float]:
    return [row["loss"] for row in tiny.metrics(out) if row["kind"] == kind]


def test_two_processes_train_the_same_run_as_one(uninterrupted: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    single = start_run(tiny.run("model.dropout=0.0", steps=STEPS), tmp_path / "run", data).path
    for kind in ("train", "validation", "final"):
        assert losses(uninterrupted, kind) == pytest.approx(losses(single, kind), rel=LOSS_TOLERANCE)
    rows = [
        [(row["kind"], row["step"], row.get("tokens")) for row in tiny.metrics(out)] for out in (uninterrupted, single)
    ]
    assert rows[0] == rows[1]
    assert sorted(path.name for path in uninterrupted.iterdir()) == sorted(path.name for path in single.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_fine_tune_like_one_and_resume_to_the_same_bits(
    kind: str, uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    """With frozen parameters, an average of the weights, and a second text that is validated."""
    settings = (
        f"training.parallel.kind={kind}", "training.freeze=[embedding.*]", f"validation.also=['{data.path}']",
        "model.dropout=0.0", "optimizer.average.kind=ema",
    )  # fmt: skip
    single = start_run(
        tiny.run(*settings, steps=STEPS), tmp_path / "one", data, initial=load_initial_weights(uninterrupted)
    ).path
    for name, failure in (("straight", None), ("stopped", (3, 1, "SIGTERM"))):
        values = job(tmp_path / name, data, *settings, failure=failure) | {"init_from": str(uninterrupted)}
        assert run(2, values) == (130 if failure else 0)
    assert run(2, job(tmp_path / "stopped", data, *settings)) == 0
    assert tiny.fingerprint(tmp_path / "stopped") == tiny.fingerprint(tmp_path / "straight")
    for row_kind in ("train", "validation", "validation_also", "final", "final_average"):
        expected = pytest.approx(losses(single, row_kind), rel=LOSS_TOLERANCE)
        assert losses(tmp_path / "straight", row_kind) == expected
    assert len(losses(single, "final_average")) == 1
    states = [load(RunDir.open(tmp_path / name), STEPS).checkpoint.state for name in ("straight", "one")]
    assert all(name.split(".")[1] != "embedding" for name in states[0].optimizer_state)
    frozen = [state.weights["embedding.weight"] for state in states]
    assert np.array_equal(frozen[0], frozen[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_learn_answers_like_one_and_resume_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    """The answers differ in length, so that the two processes learn different numbers of tokens in each step."""
    file = tmp_path / "chat.jsonl"
    rows = [[f"Question {n}?", " ".join([f"{n}"] * (1 + n % 23))] for n in range(80)]
    roles = ("user", "assistant")
    file.write_text(
        "".join(
            json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, row, strict=True)]}) + "\n"
            for row in rows
        )
    )
    settings = (
        f"training.parallel.kind={kind}", "data.loss_on=answers", "data.chat_template=chatml", "model.vocab_size=258",
        "data.validation.fraction=0.2", "model.dropout=0.0", "tokenizer=bytes",
        f"data.source={{kind: files, paths: ['{file}']}}",
    )  # fmt: skip
    chat = tiny.prepared(tmp_path / "prepared", tiny.run(*settings))
    single = start_run(tiny.run(*settings, steps=STEPS), tmp_path / "one", chat).path
    for name, failure in (("straight", None), ("stopped", (3, 1, "SIGTERM"))):
        assert run(2, job(tmp_path / name, chat, *settings, failure=failure)) == (130 if failure else 0)
    assert run(2, job(tmp_path / "stopped", chat, *settings)) == 0
    assert tiny.fingerprint(tmp_path / "stopped") == tiny.fingerprint(tmp_path / "straight")
    for row_kind in ("train", "validation", "final"):
        assert losses(tmp_path / "straight", row_kind) == pytest.approx(losses(single, row_kind), rel=LOSS_TOLERANCE)


@pytest.mark.fault("C3", cases=3)
@pytest.mark.parametrize(("rank", "name"), [(1, "SIGTERM"), (0, "SIGINT"), (1, "SIGINT")])
def test_a_signal_to_any_process_stops_all_at_one_step_with_everything_saved(
    rank: int, name: str, uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(2, job(out, data, failure=(8, rank, name))) == 130
    assert RunDir.open(out).steps()[-1] == 9  # ranks agree on a stop one step later
    assert run(2, job(out, data)) == 0
    assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


@pytest.mark.slow
@pytest.mark.fault("C3", cases=18)
@pytest.mark.parametrize(("rank", "name"), [(0, "SIGTERM"), (1, "SIGINT"), (1, "SIGTERM")])
def test_a_run_stopped_by_many_signals_ends_with_the_same_bits(
    rank: int, name: str, uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for step in (1, 3, 5, 8, 10, 13):
        assert run(2, job(out, data, failure=(step, rank, name))) == 130
        assert RunDir.open(out).steps()[-1] == step + 1
    assert run(2, job(out, data)) == 0
    assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


def test_all_processes_save_when_one_receives_the_signal(data: TokenizedDataset, tmp_path: Path) -> None:
    overrides = ("checkpoint.every_steps=100", "validation.every_steps=100", "training.parallel.kind=fsdp")
    assert run(2, job(tmp_path / "run", data, *overrides, failure=(8, 1, "SIGUSR1"))) == 0
    assert RunDir.open(tmp_path / "run").steps() == [9, STEPS]


@pytest.mark.slow
@pytest.mark.fault("C4", cases=2)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_nothing_is_lost(
    rank: int, uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(2, job(out, data, failure=(8, rank, "SIGKILL"))) == DistributedError.exit_code
    assert f"Process {rank} of 2 does not respond: killed, hanging, or its machine is down." in log_of(out, 1 - rank)
    assert run(2, job(out, data)) == 0
    assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


KILLS_AT_NIGHT = 20


@pytest.mark.faults
@pytest.mark.fault("C4", cases=KILLS_AT_NIGHT)
def test_a_process_killed_at_any_step_ends_all_and_nothing_is_lost(
    uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    generator = random.Random(1)
    for number in range(KILLS_AT_NIGHT):
        out, rank = tmp_path / str(number), generator.randrange(2)
        failure = (generator.randrange(1, STEPS), rank, "SIGKILL")
        assert run(2, job(out, data, failure=failure)) == DistributedError.exit_code
        assert f"Process {rank} of 2 does not respond" in log_of(out, 1 - rank)
        assert run(2, job(out, data)) == 0
        assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


@pytest.mark.slow
@pytest.mark.fault("C5", cases=1)
def test_a_process_that_hangs_is_an_error_after_the_timeout(data: TokenizedDataset, tmp_path: Path) -> None:
    values = job(tmp_path / "run", data, failure=(8, 1, "SIGSTOP"))  # the timeout also covers the first rendezvous
    assert run_without_launcher(2, values) == [DistributedError.exit_code, -signal.SIGKILL]
    assert "Process 1 of 2 does not respond" in log_of(tmp_path / "run", 0)


FAILURES = {  # failure of one rank → exit code of the launch, and the message of the other rank (NaN: of rank 0)
    "bug": (1, "Process {rank} of 2 has stopped: ZeroDivisionError: a bug"),
    "batches end": (1, "Process {rank} of 2 has stopped: StopIteration"),
    "no batch comes": (DistributedError.exit_code, "Process {rank} of 2 does not respond"),
    "NaN": (NumericsError.exit_code, "is not finite"),
}


HANGING_SECONDS = 10


def check_failure(what: str, rank: int, step: int, out: Path, data: TokenizedDataset) -> None:
    code, expected_message = FAILURES[what]
    hangs = what == "no batch comes"
    with pytest.MonkeyPatch.context() as patch:
        if hangs:  # the hanging rank ignores SIGTERM
            patch.setattr(launcher_torch, "GRACE_SECONDS", 1.0)
        timeout = [f"training.parallel.timeout_seconds={HANGING_SECONDS}"] if hangs else []
        ended = run(2, job(out, data, *timeout, failure=(step, rank, what)))
    assert ended == code
    if rank == 0 and what in {"bug", "batches end"}:
        assert "has stopped" not in log_of(out, 1), "rank 0 reports its own error"
    else:
        assert expected_message.format(rank=rank) in log_of(out, 0 if what == "NaN" else 1 - rank)
    if hangs:  # its watchdog reports the step before the timeout of the other rank
        location = f"after step {step} in process {rank} of 2"
        assert f"No step for {0.9 * HANGING_SECONDS:.0f} seconds {location}" in log_of(out, rank)
        assert "in fed" in log_of(out, rank)
    assert all(saved <= step for saved in RunDir.open(out).steps()), "the failed step is not saved"


@pytest.mark.slow
@pytest.mark.fault("C5", cases=4)
@pytest.mark.parametrize(("what", "rank"), [("bug", 1), ("batches end", 0), ("no batch comes", 1), ("NaN", 0)])
def test_a_failure_of_one_process_ends_all(what: str, rank: int, data: TokenizedDataset, tmp_path: Path) -> None:
    check_failure(what, rank, 8, tmp_path / "run", data)


FAILURES_AT_NIGHT = 10


@pytest.mark.faults
@pytest.mark.fault("C5", cases=FAILURES_AT_NIGHT * len(FAILURES))
@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_of_any_process_at_any_step_ends_all_and_nothing_is_lost(
    what: str, uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    generator = random.Random(what)
    for number in range(FAILURES_AT_NIGHT):
        out = tmp_path / str(number)
        check_failure(what, generator.randrange(2), generator.randrange(1, STEPS), out, data)
        assert run(2, job(out, data)) == 0
        assert tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)


@pytest.mark.slow
@pytest.mark.fault("C6", cases=10)
@pytest.mark.parametrize("step", [1, 5, 8, 13, STEPS])
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_reports_the_error_of_any_process_once(
    rank: int, step: int, data: TokenizedDataset, tmp_path: Path
) -> None:
    assert run(2, job(tmp_path / "run", data, failure=(step, rank, "full disk"))) == 4
    message = "disk full: nothing free." if rank == 0 else "Process 1 of 2 has stopped: disk full: nothing free."
    assert log_of(tmp_path / "run", 0).count(message) == 1
    assert ("disk full" in log_of(tmp_path / "run", 1)) == (rank == 1)


def run_without_launcher(processes: int, values: dict[str, Any]) -> list[int]:
    """Return the exit codes of processes without a launcher, as on machines with one process each."""
    started = []
    with reserved_port() as port:
        environment = {
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": "0",
        }
        command = [sys.executable, "-m", "tests.training.rank_work", json.dumps(values)]
        try:
            for rank in range(processes):
                started.append(
                    subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment | {"RANK": str(rank)})
                )
            started[0].wait(SECONDS)
            return [_ended(process) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()


def wait_for_end(pid: int) -> None:
    """Wait for a process that is not a child of this one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], SECONDS)
    os.close(descriptor)
    assert ended, f"process {pid} still runs without its launcher"


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process; kill it if it is stopped."""
    if Path(f"/proc/{process.pid}/stat").exists() and " T " in Path(f"/proc/{process.pid}/stat").read_text():
        process.kill()
    return process.wait(SECONDS)


def restart_with_torchrun(out: Path, data: TokenizedDataset, step: int, rank: int) -> None:
    """Train under torchrun, and kill a process."""
    values = json.dumps(job(out, data, failure=(step, rank, "SIGKILL")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "tests.training.rank_work", values]
    process = subprocess.run(torchrun, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS)
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.fault("C7", cases=1)
def test_torchrun_restarts_the_processes_and_they_resume(
    uninterrupted: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    restart_with_torchrun(tmp_path / "run", data, 8, 1)
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)


RESTARTS_AT_NIGHT = 10


@pytest.mark.faults
@pytest.mark.fault("C7", cases=RESTARTS_AT_NIGHT)
def test_torchrun_restarts_any_killed_process(uninterrupted: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    generator = random.Random(1)
    for number in range(RESTARTS_AT_NIGHT):
        restart_with_torchrun(tmp_path / str(number), data, generator.randrange(1, STEPS), generator.randrange(2))
        assert tiny.fingerprint(tmp_path / str(number)) == tiny.fingerprint(uninterrupted)


def kill_launcher(out: Path, data: TokenizedDataset, step: int, rank: int) -> None:
    """Train, kill the launcher, and check that the ranks save and exit."""
    rare_callbacks = [f"{what}.every_steps=10000" for what in ("validation", "samples", "checkpoint")]
    values = job(out, data, *rare_callbacks, failure=(step, rank, "kill the launcher")) | {"steps": 5000}
    command = [sys.executable, "-m", "tests.training.rank_work", "2", json.dumps(values)]
    process = subprocess.run(command, cwd=REPOSITORY, timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL
    pids = [int(log_of(out, rank).split()[0]) for rank in (0, 1)]
    for pid in pids:
        wait_for_end(pid)
    assert "everything is saved" in log_of(out, 0)
    (saved,) = RunDir.open(out).steps()
    assert step < saved < 5000


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent process")


@pytest.mark.slow
@needs_linux
@pytest.mark.fault("C8", cases=1)
def test_processes_of_a_killed_launcher_save_and_exit(data: TokenizedDataset, tmp_path: Path) -> None:
    kill_launcher(tmp_path / "run", data, 8, 0)


LAUNCHERS_AT_NIGHT = 20


@needs_linux
@pytest.mark.faults
@pytest.mark.fault("C8", cases=LAUNCHERS_AT_NIGHT)
def test_processes_of_a_launcher_killed_at_any_time_save_and_exit(data: TokenizedDataset, tmp_path: Path) -> None:
    generator = random.Random(1)
    for number in range(LAUNCHERS_AT_NIGHT):
        kill_launcher(tmp_path / str(number), data, generator.randrange(1, 40), generator.randrange(2))


def test_a_directory_with_another_run_is_rejected(uninterrupted: Path, data: TokenizedDataset) -> None:
    with pytest.raises(ConfigError, match="Cannot resume with other values of seed"):
        distributed_run.start_or_resume(lambda _: tiny.run("seed=3", steps=STEPS), uninterrupted, lambda: data)


def test_a_single_process_executes_its_plan(data: TokenizedDataset, tmp_path: Path) -> None:
    decision = distributed_run.LaunchPlan(tiny.run(steps=2), tmp_path / "run", data.path, resume=False)
    assert distributed_run.run_distributed(RankInfo(), lambda: decision).progress.step == 2
    assert SingleProcess().rank_info == RankInfo()
