"""One model on two and on four processes: the samples, losses and weights of one."""

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
WINDOWS = 16
# The same sums in another order, six steps of Adam long: each step may turn a rounding of 1e-7 into more.
LOSS_TOLERANCE, WEIGHT_TOLERANCE, OUTPUT_TOLERANCE = 2e-5, 2e-4, 2e-3
KINDS = ["ddp", "fsdp"]


def job(out: str, kind: str, *others: str, first: int = 0, last: int = STEPS, before: str = "") -> dict[str, Any]:
    settings = [
        "training.gradient_accumulation=[[0, 4]]",
        "training.micro_batch_size=4",
        f"training.parallel.kind={kind}",
        *others,
    ]
    run = tiny.run(*settings)
    values = run.model_dump(mode="json")
    return {"run": values, "out": out, "first": first, "last": last, "windows": WINDOWS, "before": before}


def straight_and_resumed(kind: str, optimizer: str = "") -> list[dict[str, Any]]:
    name, others = (f"{kind}-{optimizer}", [f"optimizer.kind={optimizer}"]) if optimizer else (kind, [])
    return [
        job(f"{name}-straight", kind, *others),
        job(f"{name}-half", kind, *others, last=3),
        job(f"{name}-resumed", kind, *others, first=3, before=f"{name}-half"),
    ]


def learn(folder: Path, processes: int, jobs: list[dict[str, Any]]) -> None:
    assert launcher_torch.launch(processes, rank_work.learn, jobs, str(folder)) == 0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes → the folder with all that they did."""
    folders = {processes: tmp_path_factory.mktemp(f"of{processes}") for processes in (1, 2, 4)}
    assert rank_work.learn([*straight_and_resumed("ddp"), *straight_and_resumed("ddp", "muon")], str(folders[1])) == 0
    shutil.copytree(folders[1] / "ddp-half", folders[2] / "one-half")
    moved = [
        job("from-one", "fsdp", first=3, before="one-half"),
        job("from-one-copied", "ddp", first=3, before="one-half"),
    ]
    muons = [step for kind in KINDS for step in straight_and_resumed(kind, "muon")]
    learn(folders[2], 2, [*straight_and_resumed("ddp"), *straight_and_resumed("fsdp"), *muons, *moved])
    shutil.copytree(folders[2] / "fsdp-half", folders[4] / "two-half")
    moved = [
        job("from-two", "ddp", first=3, before="two-half"),
        job("from-two-sharded", "fsdp", first=3, before="two-half"),
    ]
    learn(folders[4], 4, [*straight_and_resumed("ddp"), *straight_and_resumed("fsdp"), *moved])
    for kind in KINDS:
        shutil.copytree(folders[2] / f"{kind}-half", folders[1] / f"two-{kind}-half")
    back = [job(f"from-two-{kind}", "ddp", first=3, before=f"two-{kind}-half") for kind in KINDS]
    assert rank_work.learn(back, str(folders[1])) == 0
    return folders


def measured(out: Path) -> dict[str, Any]:
    return json.loads((out / "measured").read_text())


def assert_alike(out: Path, alone: Path) -> None:
    """The same losses and the same weights, but for rounding; ``out`` may have begun in the middle."""
    ours, theirs = measured(out), measured(alone)
    for name in ("loss", "grad_norm"):
        found = [[step[name] for step in of["steps"]] for of in (ours, theirs)]
        np.testing.assert_allclose(found[0], found[1][-len(found[0]) :], rtol=LOSS_TOLERANCE)
    for name in ("losses", "logits"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=OUTPUT_TOLERANCE)
    weights = [rank_work.read(folder).weights for folder in (out, alone)]
    assert weights[0].keys() == weights[1].keys()
    for name, array in weights[0].items():
        np.testing.assert_allclose(array, weights[1][name], atol=WEIGHT_TOLERANCE, err_msg=name)


@pytest.mark.fault("C10", cases=4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_learns_the_same_from_the_same_windows(
    processes: int, kind: str, done: dict[int, Path]
) -> None:
    """Dropout too: where every process takes whole micro-batches, its seeds are those of one process."""
    assert_alike(done[processes] / f"{kind}-straight", done[1] / "ddp-straight")


@pytest.mark.parametrize("kind", KINDS)
def test_muon_makes_whole_matrices_orthogonal_however_they_lie_on_the_devices(kind: str, done: dict[int, Path]) -> None:
    assert_alike(done[2] / f"{kind}-muon-straight", done[1] / "ddp-muon-straight")


@pytest.mark.parametrize(
    ("processes", "kind"), [*itertools.product([2, 4], KINDS), (1, "ddp-muon"), (2, "ddp-muon"), (2, "fsdp-muon")]
)
def test_the_same_number_of_processes_gives_the_same_bits_resumed_or_not(
    processes: int, kind: str, done: dict[int, Path]
) -> None:
    """With four, the order in which their parts are summed decides how the sums are rounded."""
    straight, resumed = (done[processes] / f"{kind}-{how}" for how in ("straight", "resumed"))
    for name in ("weights", "moments", "numbers"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("processes", "name"),
    [(2, "from-one"), (2, "from-one-copied"), (4, "from-two"), (4, "from-two-sharded"),
     (1, "from-two-ddp"), (1, "from-two-fsdp")],
)  # fmt: skip
@pytest.mark.fault("A21", cases=6)
def test_a_state_moves_freely_between_numbers_of_processes(processes: int, name: str, done: dict[int, Path]) -> None:
    assert_alike(done[processes] / name, done[1] / "ddp-straight")


@pytest.mark.parametrize("processes", [2, 4])
def test_all_hear_what_the_first_says_and_what_any_votes(processes: int, done: dict[int, Path]) -> None:
    """A vote is known one call later; alone it is known at once."""
    found = measured(done[processes] / "ddp-straight")
    assert (found["told"], found["votes"]) == ("said by 0", [0, 0, 1])
    assert measured(done[1] / "ddp-straight")["votes"] == [0, 1, 0]
