"""A training whose losses are finite and useless is reported once, with what to do."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.cli.main import run as fabella
from fabella.data.dataset import TokenizedDataset
from fabella.errors import NumericsError
from fabella.training import api
from fabella.training.callbacks.divergence import WINDOW, Divergence
from fabella.training.run import start_run
from tests.training import tiny

CHANCE = math.log(256)
RANDOM = np.random.default_rng(1)
FALLING = [CHANCE * math.exp(-step / 60) + 1.5 + RANDOM.normal(0, 0.15) for step in range(200)]
WILD = ("optimizer.lr=10.0", "optimizer.max_grad_norm=1e9", "optimizer.schedule=[]", "samples.prompts=[]")


def reported(losses: list[float], *, stop: bool = False, stops: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """The rows of a run with these losses, saved and resumed at each of ``stops``."""
    rows: list[Any] = []
    detector = Divergence(rows.append, chance=CHANCE, stop=stop, advice=lambda: "Do this.")
    for step, loss in enumerate(losses, start=1):
        detector.check(step, loss)
        if step in stops:
            state: Any = detector.state()
            detector = Divergence(rows.append, chance=CHANCE, stop=stop, advice=lambda: "Do this.").restore(state)
    return rows


DIVERGED = {
    "above chance from the start": [421.6] * 60,
    "above chance later": [*FALLING[:100], *[93.0] * 60],
    "far above its best": [*FALLING, *[6.5] * 60],
    "slowly": [*FALLING, *(2.0 + step / 20 for step in range(200))],
}


@pytest.mark.fault("I6", cases=1)
@pytest.mark.parametrize("losses", DIVERGED.values(), ids=DIVERGED)
def test_a_loss_far_above_chance_or_above_its_best_is_reported_once(losses: list[float]) -> None:
    (row,) = reported(losses)
    assert row["kind"] == "divergence"
    assert row["advice"] == "Do this."
    assert "the training has diverged." in row["text"]
    assert row["loss"] > 1.2 * CHANCE if "chance" in row else row["loss"] > 1.5 * row["best"]


@pytest.mark.parametrize(
    ("losses", "is_reported"),
    [([CHANCE, 9.0, *[400.0] * 18], True), ([400.0] * 9 + [5.0] * 11, False), ([CHANCE] * 20, False), ([400.0], True)],
)
def test_a_short_run_is_reported_at_its_last_step(losses: list[float], is_reported: bool) -> None:
    rows: list[Any] = []
    detector = Divergence(rows.append, chance=CHANCE, stop=False, advice=lambda: "Do this.", last_step=len(losses))
    for step, loss in enumerate(losses, start=1):
        assert rows == []
        detector.check(step, loss)
    assert [row["step"] for row in rows] == [len(losses)] * is_reported


def test_a_short_training_without_validation_is_reported(data: TokenizedDataset, tmp_path: Path) -> None:
    start_run(tiny.run(*WILD, "validation.every_steps=0", steps=20), tmp_path / "run", data)
    (row,) = [row for row in tiny.metrics(tmp_path / "run") if row["kind"] == "divergence"]
    assert row["step"] == 20


@pytest.mark.fault("I6", cases=1)
@pytest.mark.parametrize("losses", list(DIVERGED.values())[1:], ids=list(DIVERGED)[1:])
def test_a_resumed_run_reports_the_same_and_not_again(losses: list[float]) -> None:
    assert reported(losses, stops=(50, 120, 150, len(losses) - 10)) == reported(losses)


SOUND = {
    "falling": FALLING,
    "single bad batches": [9.0 if step % 10 == 0 else loss for step, loss in enumerate(FALLING)],
    "at chance": [CHANCE + 0.3] * 100,
    "a bad start": [*[8.0] * 10, *FALLING],
    "learned by heart": [max(0.02, 3.0 - step / 50) for step in range(300)],
    "non-finite": [float("nan")] * 60,
}


@pytest.mark.parametrize("losses", SOUND.values(), ids=SOUND)
def test_ordinary_trainings_are_not_reported(losses: list[float]) -> None:
    assert reported(losses) == []


def test_few_losses_are_no_divergence() -> None:
    assert reported([50.0] * (WINDOW - 1)) == []
    assert len(reported([50.0] * WINDOW)) == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.mark.fault("I6", cases=1)
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_rate_that_is_too_high_is_reported_with_the_command_to_start_again(
    engine: str, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if engine == "jax":
        pytest.importorskip("jax")
    run = tiny.run(*WILD, f"engine={engine}", "training.gradient_accumulation=[[0, 2]]", steps=36)
    result = start_run(run, tmp_path / "run", data)
    assert result.score.loss > CHANCE
    printed = capsys.readouterr().err
    assert printed.count("the training has diverged.") == 1
    command = f"fabella train {tmp_path}/run/config.yaml --out {tmp_path}/run-2 --lr 3.3"
    assert command in printed
    rows = [row for row in tiny.metrics(tmp_path / "run") if row["kind"] == "divergence"]
    assert [row["step"] for row in rows] == [7], "the first validation"


@pytest.mark.fault("I6", cases=1)
def test_with_the_policy_stop_the_training_ends_with_an_error(data: TokenizedDataset, tmp_path: Path) -> None:
    run = tiny.run(*WILD, "training.on_divergence=stop")
    with pytest.raises(NumericsError, match=r"^Step 7: the loss of .* Start again with a lower learning rate"):
        start_run(run, tmp_path / "run", data)
    unvalidated = tiny.run(*WILD, "training.on_divergence=stop", "validation.every_steps=0")
    with pytest.raises(NumericsError, match=rf"^Step {WINDOW}: the loss of .* Start again with a lower learning rate"):
        start_run(unvalidated, tmp_path / "unvalidated", data)


@pytest.mark.parametrize(
    ("training", "validation", "expected"),
    [
        ([5.4, 5.3], 421.6, 0),
        ([5.6, 90.0, 300.0], 421.6, 1),
        ([5.6, 90.0, 300.0], 1.2 * CHANCE + 0.4, 0),
        ([5.6, 90.0, 300.0], math.inf, 0),
        ([], 421.6, 0),
    ],
)
def test_a_validation_far_above_chance_is_reported_if_the_training_loss_is_above_it_too(
    training: list[float], validation: float, expected: int
) -> None:
    rows: list[Any] = []
    detector = Divergence(rows.append, chance=CHANCE, stop=False, advice=lambda: "Do this.")
    for step, loss in enumerate(training, start=1):
        detector.check(step, loss)
    for _ in range(2):
        detector.check_validation(3, validation)
    assert len(rows) == expected


def test_a_short_training_is_rolled_back(data: TokenizedDataset, tmp_path: Path) -> None:
    run = tiny.run(*WILD, "training.on_divergence=rollback", "checkpoint.every_steps=4", steps=20)
    start_run(run, tmp_path / "run", data)
    rows = [row for row in tiny.metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert [(row["failed"], row["step"]) for row in rows] == [(7, 1)] * len(rows)
    assert 1 <= len(rows) <= 3


@pytest.mark.fault("I6", cases=1)
def test_the_best_checkpoint_is_advised_if_there_is_one_and_the_command_works(
    data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = start_run(tiny.run("samples.prompts=[]"), tmp_path / "run", data).path
    capsys.readouterr()
    wild = {"optimizer.lr": 10.0, "optimizer.max_grad_norm": 1e9, "optimizer.schedule": []}
    api.resume(out, steps=90, settings=wild)
    (advice,) = [row["advice"] for row in tiny.metrics(out) if row["kind"] == "divergence"]
    command = advice.partition(": fabella ")[2]
    assert command == f"resume {out} --checkpoint best --out {out}-2 --lr 3.3"
    assert fabella([*command.split(), "--steps", "42", "--json"]) == 0
