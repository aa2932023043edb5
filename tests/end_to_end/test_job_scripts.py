"""Tests of the job scripts in docs/guide-clusters.md, with fakes of srun, scontrol, torchrun and fabella."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.run_config.files import to_yaml
from fabella.runs.run_dir import RunDir
from tests.source_tree import REPOSITORY
from tests.training import tiny

GUIDE = (REPOSITORY / "docs" / "guide-clusters.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```text\n(#!/bin/bash\n.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
TORCHRUN, NODES, NODE = "torchrun", "slurm on two nodes", "slurm on one node"
BY_NAME = dict(zip((TORCHRUN, NODES, NODE), SCRIPTS, strict=True))
EXIT_CODES = (0, 2, 3, 4, 5, 6, 130)
"""The exit codes in docs/guide-own-text.md."""
STEPS = 600
SECONDS = 240  # timeout of a job

SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo node1 && echo node2
[ "$1" = requeue ] && echo "$2" >> requeued
exit 0
"""
# Starts the tasks and exits with the largest of their codes, as srun does. STOP: at the first start of the job, SIGTERM
# is sent after the first checkpoint.
SRUN = """#!/bin/bash
echo "$@" >> srun-arguments
while [[ "$1" == --* ]]; do shift; done
tasks=()
for (( rank = 0; rank < SLURM_NTASKS; rank++ )); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!)
done
if [ -n "$STOP" ] && [ ! -e requeued ]; then
  until [ -e runs/mine/latest ] || ! kill -0 "${tasks[0]}" 2> /dev/null; do sleep 0.05; done
  kill -TERM "${tasks[@]}"
fi
largest=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; (( code > largest )) && largest=$code; done
exit "$largest"
"""
# Starts two processes with their ranks, again if one of them failed (ATTEMPTS in all), and exits with 1 if one failed
# in the last attempt, as torchrun does.
FAKE_TORCHRUN = """#!/bin/bash
until [ "$1" = --no-python ]; do shift; done
shift
for (( attempt = 0; attempt < ${ATTEMPTS:-1}; attempt++ )); do
  export TORCHELASTIC_RESTART_COUNT=$attempt
  RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 "$@" & first=$!
  RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 "$@" & second=$!
  failed=0
  wait "$first" || failed=1
  wait "$second" || failed=1
  [ "$failed" = 0 ] && break
done
exit "$failed"
"""
FAKE_FABELLA = """#!/bin/bash
echo "$RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE port $MASTER_PORT threads $OMP_NUM_THREADS: $*" >> started
exit "$CODE"
"""


def cluster(folder: Path, **programs: str) -> dict[str, str]:
    """Write the fake programs to ``bin``, and return the environment of a job."""
    (folder / "bin").mkdir()
    for name, text in {"scontrol": SCONTROL, "srun": SRUN, **programs}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY / 'src'}", "TMPDIR": str(folder),
        "SLURM_JOB_ID": "123457", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1",
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip


def run_job(script: str, folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    (folder / "job").write_text(script)
    return subprocess.run(["bash", "job"], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def requeued(folder: Path) -> list[str]:
    """Return the ids of the requeued jobs."""
    return (folder / "requeued").read_text().split() if (folder / "requeued").exists() else []


@pytest.mark.parametrize("name", BY_NAME)
def test_a_script_is_valid_bash(name: str) -> None:
    process = subprocess.run(["bash", "-n", "-c", BY_NAME[name]], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.fault("I9", cases=21)
@pytest.mark.parametrize("code", EXIT_CODES)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_script_keeps_every_exit_code_and_requeues_only_after_a_stop(name: str, code: int, tmp_path: Path) -> None:
    environment = cluster(tmp_path, torchrun=FAKE_TORCHRUN, fabella=FAKE_FABELLA) | {"CODE": str(code)}
    if name == NODE:
        environment |= {"SLURM_NTASKS": "1"}
    process = run_job(BY_NAME[name], tmp_path, environment)
    assert process.returncode == code, process.stderr
    assert requeued(tmp_path) == (["123457"] if code == 130 and name != TORCHRUN else [])
    assert process.stderr == ""


@pytest.mark.fault("I9", cases=3)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_script_keeps_the_code_of_a_killed_process(name: str, tmp_path: Path) -> None:
    environment = cluster(tmp_path, torchrun=FAKE_TORCHRUN, fabella="#!/bin/bash\nkill -KILL $$\n")
    process = run_job(BY_NAME[name], tmp_path, environment)
    assert (process.returncode, requeued(tmp_path)) == (137, [])


@pytest.mark.fault("I9", cases=4)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("attempts", [1, 12])
def test_the_torchrun_script_keeps_the_code_of_the_first_failure_of_the_last_attempt(
    first: int, attempts: int, tmp_path: Path
) -> None:
    # The rank that fails first starts alone: the other one waits for its code before it does anything.
    fabella = f"""#!/bin/bash
codes="$EXIT_CODES/$((1000 + TORCHELASTIC_RESTART_COUNT))"
last=$(( TORCHELASTIC_RESTART_COUNT == {attempts - 1} ))
[ "$RANK" = {first} ] && exit $(( last ? 5 : 3 ))
until [ -s "$codes" ]; do sleep 0.01; done
exit $(( last ? 6 : 4 ))
"""
    environment = cluster(tmp_path, torchrun=FAKE_TORCHRUN, fabella=fabella) | {"ATTEMPTS": str(attempts)}
    assert run_job(BY_NAME[TORCHRUN], tmp_path, environment).returncode == 5


def test_each_task_gets_its_rank_a_port_of_the_job_and_its_cores(tmp_path: Path) -> None:
    environment = cluster(tmp_path, fabella=FAKE_FABELLA) | {"CODE": "0", "SLURM_CPUS_PER_TASK": "8"}
    run_job(BY_NAME[NODES], tmp_path, environment)
    command = "train piny-37m --data prepared/mine --out runs/mine --resume"
    assert sorted((tmp_path / "started").read_text().splitlines()) == [
        f"0/2 local 0/2 port 23457 threads 8: {command}",
        f"1/2 local 1/2 port 23457 threads 8: {command}",
    ]
    assert "--cpus-per-task=8" in (tmp_path / "srun-arguments").read_text()


def free_job_id() -> str:
    """Return the id of a job whose port is free on this machine."""
    for port in range(20_000 + os.getpid() % 9_000, 30_000):
        with socket.socket() as server:
            if server.connect_ex(("127.0.0.1", port)) != 0:
                return str(port - 20_000)
    raise AssertionError("no port is free")


@pytest.mark.faults
@pytest.mark.fault("C7", cases=1)
def test_a_stopped_job_is_requeued_and_resumes_to_its_end(tmp_path: Path) -> None:
    run = tiny.run("checkpoint.every_steps=5", "model.dropout=0.0", steps=STEPS)
    (tmp_path / "prepared").mkdir()
    shutil.move(tiny.prepared(tmp_path).path, tmp_path / "prepared" / "mine")
    (tmp_path / "mine.yaml").write_text(to_yaml(run))
    job_id = free_job_id()
    scontrol = SCONTROL.replace("node1", "127.0.0.1")
    environment = cluster(tmp_path, scontrol=scontrol) | {"STOP": "1", "SLURM_JOB_ID": job_id}
    script = BY_NAME[NODES].replace("piny-37m", "mine.yaml")
    starts_of_job = []
    for _ in range(2):
        process = run_job(script, tmp_path, environment)
        starts_of_job.append((process.returncode, RunDir.open(tmp_path / "runs" / "mine").steps()[-1], process.stderr))
    (first_code, first_step, first_output), (second_code, second_step, second_output) = starts_of_job
    assert (first_code, second_code) == (130, 0), second_output
    assert 5 <= first_step < STEPS == second_step
    assert requeued(tmp_path) == [job_id], "requeued exactly once"
    assert "everything is saved" in first_output


@pytest.mark.faults
@pytest.mark.fault("I9", cases=3)
@pytest.mark.parametrize("code", [0, 3, 130])
def test_the_torchrun_script_keeps_the_code_with_the_real_torchrun(code: int, tmp_path: Path) -> None:
    environment = cluster(tmp_path, fabella=FAKE_FABELLA) | {"CODE": str(code)}
    script = BY_NAME[TORCHRUN]
    replacements = {
        "--nnodes 2": "--nnodes 1",
        "--nproc-per-node 8": "--nproc-per-node 2",
        "--max-restarts 3": "--max-restarts 1",
        "first-machine:29400": "localhost:0",
    }
    for documented, replacement in replacements.items():
        assert script.count(documented) == 1
        script = script.replace(documented, replacement)
    process = run_job(script, tmp_path, environment)
    assert process.returncode == code, process.stderr
    starts = len((tmp_path / "started").read_text().splitlines())
    assert starts >= (2 if code == 0 else 3), "a failure is restarted"
