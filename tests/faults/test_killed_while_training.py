"""Tests that a run killed and resumed any number of times ends with the bits of an uninterrupted run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training import tiny

CHAINS = 6
CHAINS_AT_NIGHT = 50


def run_chains(folder: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.faults.training_processes", str(folder), str(count), "1"]
    root = Path(__file__).parents[2]
    process = subprocess.run(
        command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_chains(tmp_path_factory.mktemp("chains"), CHAINS)


def assert_nothing_lost(results: dict[str, Any], count: int) -> None:
    assert len(results["chains"]) == count
    assert {chain["fingerprint"] for chain in results["chains"]} == set(results["straight"])
    assert max(chain["lost"] for chain in results["chains"]) <= tiny.run().checkpoint.every_steps


@pytest.mark.slow
@pytest.mark.fault("A24", cases=10)
def test_the_same_run_in_ten_fresh_processes_ends_with_the_same_bits(results: dict[str, Any]) -> None:
    assert len(results["straight"]) == 10
    assert len(set(results["straight"])) == 1


@pytest.mark.slow
@pytest.mark.fault("A11", cases=CHAINS)
def test_chains_of_kills_end_with_the_bits_of_an_uninterrupted_run(results: dict[str, Any]) -> None:
    assert_nothing_lost(results, CHAINS)


@pytest.mark.faults
@pytest.mark.fault("A3", cases=CHAINS_AT_NIGHT)
@pytest.mark.fault("A4", cases=CHAINS_AT_NIGHT)
def test_fifty_chains_of_kills_lose_no_bit_and_no_more_than_a_save_interval(tmp_path: Path) -> None:
    assert_nothing_lost(run_chains(tmp_path, CHAINS_AT_NIGHT), CHAINS_AT_NIGHT)
