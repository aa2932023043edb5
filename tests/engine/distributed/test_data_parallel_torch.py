"""Tests that DDP and FSDP on two and four processes give the losses and weights of one process."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.engine.distributed import launcher_torch
from tests.engine import rank_work
from tests.training import tiny

STEPS = 6
NUM_SEQUENCES = 16
# The order of sums differs. Each of the six steps of Adam may amplify a rounding error of 1e-7.
LOSS_TOLERANCE, WEIGHT_TOLERANCE, OUTPUT_TOLERANCE = 2e-5, 2e-4, 2e-3
KINDS = ["ddp", "fsdp"]


def job(out: str, kind: str, *overrides: str, first: int = 0, last: int = STEPS, before: str = "") -> dict[str, Any]:
    settings = [
        "training.gradient_accumulation=[[0, 4]]",
        "training.micro_batch_size=4",
        f"training.parallel.kind={kind}",
        "optimizer.average={kind: mean, start: 1}",
        *overrides,
    ]
    run = tiny.run(*settings)
    values = run.model_dump(mode="json")
    return {"run": values, "out": out, "first": first, "last": last, "num_sequences": NUM_SEQUENCES, "before": before}


def uninterrupted_and_resumed(kind: str, optimizer: str = "") -> list[dict[str, Any]]:
    name, overrides = (f"{kind}-{optimizer}", [f"optimizer.kind={optimizer}"]) if optimizer else (kind, [])
    return [
        job(f"{name}-straight", kind, *overrides),
        job(f"{name}-half", kind, *overrides, last=3),
        job(f"{name}-resumed", kind, *overrides, first=3, before=f"{name}-half"),
    ]


def launch(folder: Path, processes: int, jobs: list[dict[str, Any]]) -> None:
    assert launcher_torch.launch(processes, rank_work.run_jobs, jobs, str(folder)) == 0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run all jobs. Return number of processes → folder with their results."""
    folders = {processes: tmp_path_factory.mktemp(f"of{processes}") for processes in (1, 2, 4)}
    assert (
        rank_work.run_jobs(
            [*uninterrupted_and_resumed("ddp"), *uninterrupted_and_resumed("ddp", "muon")], str(folders[1])
        )
        == 0
    )
    shutil.copytree(folders[1] / "ddp-half", folders[2] / "one-half")
    moved_jobs = [
        job("from-one", "fsdp", first=3, before="one-half"),
        job("from-one-copied", "ddp", first=3, before="one-half"),
    ]
    muon_jobs = [step for kind in KINDS for step in uninterrupted_and_resumed(kind, "muon")]
    launch(
        folders[2], 2, [*uninterrupted_and_resumed("ddp"), *uninterrupted_and_resumed("fsdp"), *muon_jobs, *moved_jobs]
    )
    shutil.copytree(folders[2] / "fsdp-half", folders[4] / "two-half")
    moved_jobs = [
        job("from-two", "ddp", first=3, before="two-half"),
        job("from-two-sharded", "fsdp", first=3, before="two-half"),
    ]
    launch(folders[4], 4, [*uninterrupted_and_resumed("ddp"), *uninterrupted_and_resumed("fsdp"), *moved_jobs])
    for kind in KINDS:
        shutil.copytree(folders[2] / f"{kind}-half", folders[1] / f"two-{kind}-half")
    back = [job(f"from-two-{kind}", "ddp", first=3, before=f"two-{kind}-half") for kind in KINDS]
    assert rank_work.run_jobs(back, str(folders[1])) == 0
    return folders


def measured(out: Path) -> dict[str, Any]:
    return json.loads((out / "measured").read_text())


def assert_close(out: Path, single: Path) -> None:
    """Check that losses and weights are equal up to rounding; ``out`` may have only the last steps."""
    actual, expected = measured(out), measured(single)
    for name in ("loss", "grad_norm"):
        series = [[step[name] for step in result["steps"]] for result in (actual, expected)]
        np.testing.assert_allclose(series[0], series[1][-len(series[0]) :], rtol=LOSS_TOLERANCE)
    for name in ("losses", "average_losses", "logits"):
        np.testing.assert_allclose(actual[name], expected[name], atol=OUTPUT_TOLERANCE)
    states = [rank_work.read(folder) for folder in (out, single)]
    assert states[0].scalars["averaged"] == states[1].scalars["averaged"] == STEPS - 1
    for part in ("weights", "average"):
        first, second = (getattr(state, part) for state in states)
        assert first.keys() == second.keys()
        for name, array in first.items():
            np.testing.assert_allclose(array, second[name], atol=WEIGHT_TOLERANCE, err_msg=name)


@pytest.mark.fault("C10", cases=4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_trains_to_the_same_losses_and_weights(
    processes: int, kind: str, results: dict[int, Path]
) -> None:
    """Dropout is included: with complete micro-batches on each rank, its seeds are those of one process."""
    assert_close(results[processes] / f"{kind}-straight", results[1] / "ddp-straight")


@pytest.mark.parametrize("kind", KINDS)
def test_muon_orthogonalizes_complete_matrices_of_any_strategy(kind: str, results: dict[int, Path]) -> None:
    assert_close(results[2] / f"{kind}-muon-straight", results[1] / "ddp-muon-straight")


@pytest.mark.parametrize(
    ("processes", "kind"), [*itertools.product([2, 4], KINDS), (1, "ddp-muon"), (2, "ddp-muon"), (2, "fsdp-muon")]
)
def test_a_resumed_run_on_the_same_number_of_processes_has_the_same_bits(
    processes: int, kind: str, results: dict[int, Path]
) -> None:
    """With four processes, rounding depends on the order in which their gradients are summed."""
    uninterrupted, resumed = (results[processes] / f"{kind}-{how}" for how in ("straight", "resumed"))
    for name in (*rank_work.FILES, "numbers"):
        assert (uninterrupted / name).read_bytes() == (resumed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("processes", "name"),
    [(2, "from-one"), (2, "from-one-copied"), (4, "from-two"), (4, "from-two-sharded"),
     (1, "from-two-ddp"), (1, "from-two-fsdp")],
)  # fmt: skip
@pytest.mark.fault("A21", cases=6)
def test_a_state_can_be_restored_on_another_number_of_processes(
    processes: int, name: str, results: dict[int, Path]
) -> None:
    assert_close(results[processes] / name, results[1] / "ddp-straight")


@pytest.mark.parametrize("processes", [2, 4])
def test_all_ranks_receive_the_broadcast_and_the_maximum_vote(processes: int, results: dict[int, Path]) -> None:
    """The maximum vote is returned one call later, and at once in a single process."""
    result = measured(results[processes] / "ddp-straight")
    assert (result["received"], result["votes"]) == ("sent by 0", [0, 0, 1])
    assert measured(results[1] / "ddp-straight")["votes"] == [0, 1, 0]
