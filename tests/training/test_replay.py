"""Tests that a non-finite step is saved in the run directory and fails again when it is replayed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.cli.main import run as fabella
from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import SingleProcess
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import CheckpointError, NonFiniteStepError, NumericsError
from fabella.optim.registry import state_spec
from fabella.runs import failed_steps
from fabella.runs.checkpoint import Checkpoint, load
from fabella.runs.failed_steps import FailedStepRecord, save
from fabella.runs.run_dir import RunDir
from fabella.training.callbacks import checkpointing
from fabella.training.loop import Progress, train
from fabella.training.recovery import FailedStepRecorder
from fabella.training.replay import replay
from fabella.training.run import resume, start_run
from fabella.training.session import TrainingSession
from tests.training import tiny

QUERY = "blocks.0.attention.query.weight"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def set_weight_to_nan(monkeypatch: pytest.MonkeyPatch, at: int, name: str) -> None:
    """Set an element of the weight ``name`` to NaN before step ``at`` (from 1)."""
    step = TorchEngine.step

    def step_with_nan(self: TorchEngine, batch: Batch, lr: float) -> Any:
        if self.steps == at - 1:
            with torch.no_grad():
                dict(self.model.named_parameters())[name].flatten()[0] = torch.nan
        return step(self, batch, lr)

    monkeypatch.setattr(TorchEngine, "step", step_with_nan)


@pytest.mark.fault("D1", cases=3)
@pytest.mark.parametrize("at", [1, 6, 14])
def test_a_step_with_a_nan_weight_is_saved_and_replayed(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    with monkeypatch.context() as patch:
        set_weight_to_nan(patch, at, QUERY)
        with pytest.raises(NumericsError, match=rf"Step {at}: .* fabella replay-step .*step-{at:08d}") as error:
            start_run(tiny.run(steps=20), tmp_path / "run", data, device="cpu")
    saved_step = tmp_path / "run" / "failures" / f"step-{at:08d}"
    report = replay(saved_step, device="cpu")
    assert report.error == report.before
    assert report.error in str(error.value)
    assert report.module == QUERY.removesuffix(".weight")
    # The NaN is not in any checkpoint, so that the run can be resumed.
    assert resume(tmp_path / "run", device="cpu").progress.step == 20


@pytest.mark.fault("D1", cases=2)
@pytest.mark.parametrize("at", [2, 9])
def test_a_step_with_a_transient_nan_gradient_is_saved_and_replayed(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    update: Any = vars(TorchEngine)["_update"]  # the only place to inject a fault of the backward pass

    def update_with_inf(self: TorchEngine, loss: Any, lr: float) -> Any:
        if self.steps == at - 1:
            next(p.grad for p in self.model.parameters() if p.grad is not None).fill_(torch.inf)
        return update(self, loss, lr)

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "_update", update_with_inf)
        with pytest.raises(NumericsError, match=rf"Step {at}: .* is not finite"):
            start_run(tiny.run(steps=20), tmp_path / "run", data, device="cpu")
        report = replay(tmp_path / "run" / "failures" / f"step-{at:08d}", device="cpu")
        assert report.error
        assert report.module == ""
        assert "all modules are finite" in str(report)
    replayed_without_fault = replay(tmp_path / "run" / "failures" / f"step-{at:08d}", device="cpu")
    assert replayed_without_fault.error == ""
    assert str(replayed_without_fault).startswith(f"Step {at} did not fail again")


def rate(first: int, end: int) -> Any:
    """Return a schedule with a far too high learning rate from step ``first`` to before ``end``."""

    def of(section: Any, step: int, steps: int) -> float:
        return 1e39 if first <= step < end else 1e-3

    return of


def diverging_run(data: TokenizedDataset, out: Path) -> NumericsError:
    settings = ["optimizer.schedule=[]", "optimizer.weight_decay=0.0", "checkpoint.every_steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabella.training.session.learning_rate", rate(3, 99))
        with pytest.raises(NumericsError) as error:
            start_run(tiny.run(*settings, steps=20), out, data, device="cpu")
    return error.value


@pytest.mark.fault("D2", cases=1)
def test_non_finite_weights_are_never_saved(data: TokenizedDataset, tmp_path: Path) -> None:
    error = diverging_run(data, tmp_path / "run")
    assert "not finite" in str(error)
    folder = RunDir.open(tmp_path / "run")
    loaded = load(folder, "latest")
    assert loaded.step == 3
    assert not loaded.warnings
    assert all(np.isfinite(array).all() for array in loaded.checkpoint.state.weights.values())


@pytest.mark.fault("D2", cases=9)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("location", ["first weight", "last weight", "last moment"])
def test_a_checkpoint_with_one_non_finite_number_is_neither_latest_nor_best(
    location: str, number: float, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the snapshot is broken: the losses are finite and fall."""
    take_snapshot, changed = checkpointing.take_snapshot, list[str]()

    def snapshot_with_one(session: Any, progress: Progress, callback_state: Any) -> Checkpoint:
        snapshot = take_snapshot(session, progress, callback_state)
        if progress.step == 6:
            arrays = dict(snapshot.state.optimizer_state if location == "last moment" else snapshot.state.weights)
            name = list(arrays)[0 if location == "first weight" else -1]
            arrays[name] = arrays[name].copy()
            arrays[name].flat[-1] = number
            kind = "optimizer_state" if location == "last moment" else "weights"
            snapshot = dataclasses.replace(snapshot, state=dataclasses.replace(snapshot.state, **{kind: arrays}))
            changed.append(name)
        return snapshot

    monkeypatch.setattr(checkpointing, "take_snapshot", snapshot_with_one)
    settings = ["checkpoint.every_steps=2", "validation.every_steps=2"]  # each validation loss is the lowest so far
    with pytest.raises(NumericsError) as error:
        start_run(tiny.run(*settings, steps=20), tmp_path / "run", data, device="cpu")
    assert f"{changed[0]} is not finite" in str(error.value)
    folder = RunDir.open(tmp_path / "run")
    assert [load(folder, which).step for which in ("latest", "best")] == [4, 4]
    assert folder.steps()[-1] == 4


@pytest.mark.fault("D1", cases=1)
def test_a_step_of_a_diverged_run_fails_again(data: TokenizedDataset, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fabella.training.session.learning_rate", lambda section, step, steps: 1e39 if step == 2 else 1e-3
        )
        with pytest.raises(NumericsError, match=r"Step 4: .* replay-step"):
            start_run(tiny.run(steps=20), tmp_path / "run", data, device="cpu")
    report = replay(tmp_path / "run" / "failures" / "step-00000004", device="cpu")
    assert report.error == report.before
    assert report.module


def test_a_saved_step_equals_the_input_of_the_engine(data: TokenizedDataset, tmp_path: Path) -> None:
    engine = engines.create_engine(tiny.run(), device="cpu")
    folder = RunDir.create(tmp_path / "run", tiny.run(), {})
    ids = np.arange(64, dtype=np.int32).reshape(2, 32)
    failure = FailedStepRecord(
        7, dataclasses.replace(engine.state(), scalars={"step": 6}), Batch(ids, ids + 1), 1e-3, "Why."
    )
    table = tiny.run().model.parameters()
    read = failed_steps.read(save(folder, failure), table, state_spec(table, tiny.run().optimizer))
    assert (read.step, read.lr, read.error, read.state.scalars) == (7, 1e-3, "Why.", {"step": 6})
    assert np.array_equal(read.batch.tokens, ids)
    assert np.array_equal(read.batch.targets, ids + 1)
    assert all(np.array_equal(read.state.weights[n], a) for n, a in failure.state.weights.items())
    for step in (8, 9, 10, 9):
        save(folder, dataclasses.replace(failure, step=step))
    assert sorted(p.name for p in (tmp_path / "run" / "failures").iterdir()) == [
        "step-00000008", "step-00000009", "step-00000010"
    ]  # fmt: skip


class LateErrorEngine:
    """An engine whose error is raised when its result is read, as on a GPU."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def state(self) -> Any:
        return self.engine.state()

    def step(self, batch: Batch, lr: float) -> Any:
        self.engine.step(batch, lr)
        return self

    def read(self) -> dict[str, float]:
        raise NonFiniteStepError("Step 1: later.", step=1)


def test_a_step_whose_error_appears_when_its_result_is_read_is_saved(data: TokenizedDataset, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", tiny.run(), {})
    ids = np.arange(64, dtype=np.int32).reshape(2, 32)
    engine: Any = LateErrorEngine(engines.create_engine(tiny.run(), device="cpu"))
    recorder = FailedStepRecorder(
        TrainingSession(tiny.run(), run_dir, data, engine, SingleProcess()), Progress(), lambda: 0
    )
    batches = recorder.watch(iter([Batch(ids, ids + 1), Batch(ids, ids)]))

    def read_at_two(progress: Progress, result: Any) -> None:
        if progress.step == 2:
            result.read()

    message = r"later\. The step is saved in .*step-00000001"
    with pytest.raises(NumericsError, match=message), recorder.recording():
        train(engine, batches, lambda step: 1e-3, [read_at_two], progress=Progress(), until=2)
    table = tiny.run().model.parameters()
    path = tmp_path / "run" / "failures" / "step-00000001"
    saved = failed_steps.read(path, table, state_spec(table, tiny.run().optimizer))
    assert np.array_equal(saved.batch.targets, ids + 1)


def test_batches_whose_results_were_read_are_not_kept(data: TokenizedDataset, tmp_path: Path) -> None:
    ids = np.zeros((2, 32), dtype=np.int32)
    engine: Any = None
    session = TrainingSession(tiny.run(), RunDir(tmp_path, tiny.run(), {}), data, engine, SingleProcess())
    recorder = FailedStepRecorder(session, Progress(), lambda: recorder.progress.step - 1)
    for _ in recorder.watch(Batch(ids, ids) for _ in range(5)):
        assert len(recorder._unread) <= 2  # pyright: ignore[reportPrivateUsage]


def test_a_directory_that_is_not_a_saved_step_is_rejected(data: TokenizedDataset, tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", tiny.run(), {})
    with pytest.raises(CheckpointError, match=r"is not a failed step\. Give RUN/failures/"):
        replay(tmp_path / "run" / "checkpoints" / "step-00000001")
    with pytest.raises(
        CheckpointError, match=r"run is not a failed step\. It has no failed steps\. Give RUN/failures/"
    ):
        replay(tmp_path / "run")
    (tmp_path / "run" / "failures" / "step-00000007").mkdir(parents=True)
    for path in (tmp_path / "run", tmp_path / "run" / "failures"):
        with pytest.raises(CheckpointError, match=r"Replay it with: fabella replay-step .*run/failures/step-00000007$"):
            replay(path)


def test_the_command_prints_the_report(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        set_weight_to_nan(patch, 2, QUERY)
        with pytest.raises(NumericsError):
            start_run(tiny.run(steps=4), tmp_path / "run", data, device="cpu")
    capsys.readouterr()
    command = ["replay-step", str(tmp_path / "run" / "failures" / "step-00000002"), "--device", "cpu"]
    assert fabella(command) == 0
    assert "It failed again with the same error: Step 2: " in capsys.readouterr().out
    assert fabella([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["step"], report["happened"], report["module"]) == (2, True, "blocks.0.attention.query")


def test_training_needs_something_to_train_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["train"]) == 2
    assert "Nothing to train on was given. Give a text, a preset or a .yaml config." in capsys.readouterr().err
