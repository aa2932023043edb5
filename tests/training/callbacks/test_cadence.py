"""Tests of cadences in steps and in epochs."""

import pytest

from fabella.config.training import MaxSteps, TrainingConfig
from fabella.training.callbacks.cadence import every_epochs, every_steps
from fabella.training.loop import Progress
from fabella.training.schedule import sequences_before

TRAINING = TrainingConfig(
    length=MaxSteps(max_steps=100), micro_batch_size=8, gradient_accumulation=((0, 1), (10, 2), (20, 4))
)


def due_steps(epochs: float, epoch_sequences: int) -> list[int]:
    due = every_epochs(epochs, epoch_sequences, TRAINING)
    return [step for step in range(1, 41) if due(Progress(step, sequences_before(TRAINING, step)))]


@pytest.mark.parametrize("epochs", [0.1, 0.5, 1.0, 2.0])
def test_every_epochs_acts_at_the_first_step_that_completes_them_whatever_the_batch(epochs: float) -> None:
    completed = [sequences_before(TRAINING, step) / (100 * epochs) for step in range(41)]
    expected = [step for step in range(1, 41) if int(completed[step] + 1e-9) > int(completed[step - 1] + 1e-9)]
    assert due_steps(epochs, 100) == expected


def test_whole_epochs() -> None:
    assert due_steps(1.0, 80) == [10, 15, 20, 23, 25, 28, 30, 33, 35, 38, 40]
    assert due_steps(2.0, 80) == [15, 23, 28, 33, 38]


def test_an_interval_below_a_batch_is_every_step() -> None:
    assert due_steps(0.01, 100) == list(range(1, 41))


def test_sequences_before_a_rollback_count() -> None:
    due = every_epochs(1.0, 80, TRAINING)
    assert due(Progress(5, 80, rollbacks=1))
    assert not due(Progress(5, 88, rollbacks=1))


def test_every_steps() -> None:
    due = every_steps(7)
    assert [step for step in range(1, 30) if due(Progress(step))] == [7, 14, 21, 28]
