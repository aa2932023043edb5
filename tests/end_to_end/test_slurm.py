"""The job script of docs/guide-clusters.md, in a cluster of stand-ins: stopped before its time is up, queued again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.run_config.files import to_yaml
from fabella.runs.run_dir import RunDir
from tests.processes import reserved_port
from tests.source_tree import REPOSITORY
from tests.training import tiny

STEPS = 600
SECONDS = 240  # a bound for what hangs

SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo 127.0.0.1
[ "$1" = requeue ] && echo "$2" >> requeued
"""
# Starts the tasks, and ends with the largest of their codes, as srun does. In the job's first life, the notice before
# the time-out comes once there is a checkpoint.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
tasks=()
for (( rank = 0; rank < SLURM_NTASKS; rank++ )); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!)
done
if [ ! -e requeued ]; then
  until [ -e runs/mine/latest ] || ! kill -0 "${tasks[0]}" 2> /dev/null; do sleep 0.05; done
  kill -TERM "${tasks[@]}"
fi
largest=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; (( code > largest )) && largest=$code; done
exit "$largest"
"""


def script(port: int) -> str:
    """The block of the guide, on a tiny run and a port that is free here."""
    guide = (REPOSITORY / "docs" / "guide-clusters.md").read_text(encoding="utf-8")
    block = re.search(r"^```text\n(#!/bin/bash\n#SBATCH.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    assert block, "the guide has no job script any more"
    changed = block[1].replace("piny-37m", "mine.yaml").replace("29500", str(port))
    assert changed.count("mine.yaml") == 1
    return changed


def test_the_script_is_valid_bash() -> None:
    done = subprocess.run(["bash", "-n", "-c", script(29501)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.faults
@pytest.mark.fault("C7", cases=1)
def test_a_stopped_job_is_requeued_and_resumes_to_its_end(tmp_path: Path) -> None:
    run = tiny.run("checkpoint.every_steps=5", "model.dropout=0.0", steps=STEPS)
    tiny.prepared(tmp_path).folder.rename(tmp_path / "data")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "data").rename(tmp_path / "prepared" / "mine")
    (tmp_path / "mine.yaml").write_text(to_yaml(run))
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "src"),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    lives = []
    with reserved_port() as port:
        (tmp_path / "job").write_text(script(port))
        for _ in range(2):
            done = subprocess.run(
                ["bash", "job"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
            steps = RunDir.open(tmp_path / "runs" / "mine").steps()
            lives.append((steps[-1], (tmp_path / "requeued").read_text(), done.stderr))
    assert 5 <= lives[0][0] < STEPS
    assert lives[1][0] == STEPS, lives[1][2]
    assert [requeued for _, requeued, _ in lives] == ["7\n", "7\n"], "queued again once"
    assert "everything is saved" in lives[0][2]
