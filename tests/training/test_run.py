"""Tests that a run ends with the same bits, whether it is stopped and resumed or not."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.config.optimizer import ExponentialAverage, MeanAverage
from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.engine import device_torch, engine_torch
from fabella.engine.engine import State
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import (
    CheckpointError,
    ConfigError,
    DiskFullError,
    PreparedDataError,
    StorageError,
    TokenizerError,
    TrainingInterrupted,
)
from fabella.optim.muon_torch import MuonWithAdamW
from fabella.runs import checkpoint
from fabella.runs.branch import config_at
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.training import api
from fabella.training import run as training_run
from fabella.training.callbacks import checkpointing
from fabella.training.loop import Progress
from fabella.training.run import resume, start_run
from fabella.training.setup.resolve_config import resolve_config
from tests.training import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uninterrupted run."""
    return start_run(tiny.run(), tmp_path_factory.mktemp("runs") / "straight", data).path


class StopAt:
    """A callback that sends a signal to this process at a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def __call__(self, progress: Progress, result: Any) -> None:
        if progress.step == self.step:
            os.kill(os.getpid(), self.number)


def stopped_run(out: Path, data: TokenizedDataset, *steps: int, overrides: tuple[str, ...] = ()) -> Path:
    """Return a run that was stopped at each of ``steps`` and resumed except after the last."""
    with pytest.raises(TrainingInterrupted):
        start_run(tiny.run(*overrides), out, data, callbacks=[StopAt(steps[0])])
    for step in steps[1:]:
        with pytest.raises(TrainingInterrupted):
            resume(out, callbacks=[StopAt(step)])
    return out


def test_a_run_learns(finished: Path) -> None:
    rows = tiny.metrics(finished)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < losses[0] - 1.0


def test_the_metrics_have_rows_at_their_cadences(finished: Path) -> None:
    rows = tiny.metrics(finished)
    steps = {kind: [row["step"] for row in rows if row["kind"] == kind] for kind in ("train", "validation", "final")}
    assert steps["train"] == [1, *range(3, 40, 3)]
    assert steps["validation"] == [7, 14, 21, 28, 35, 40]
    assert steps["final"] == [40]
    assert [row["tokens"] for row in rows if row["kind"] == "train"][:3] == [512, 1536, 3072]


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(finished: Path) -> None:
    validation = {row["step"]: row["loss"] for row in tiny.metrics(finished) if row["kind"] == "validation"}
    best = min(validation, key=validation.__getitem__)
    assert RunDir.open(finished).read_pointer("best") == best


def test_the_same_config_and_seed_give_the_same_bits(finished: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    second_run = start_run(tiny.run(), tmp_path / "again", data).path
    assert tiny.fingerprint(second_run) == tiny.fingerprint(finished)


def test_another_seed_gives_other_weights_and_another_order(
    finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    other = start_run(tiny.run("seed=2"), tmp_path / "other", data).path
    assert tiny.fingerprint(other) != tiny.fingerprint(finished)


@pytest.mark.parametrize("steps", [(3,), (5,), (7,), (12,), (21,), (3, 6, 9), (12, 15, 18, 24, 39)], ids=str)
def test_stopped_and_resumed_any_number_of_times_a_run_ends_with_the_same_bits(
    steps: tuple[int, ...], finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    steps = tuple(step - step % 3 for step in steps)  # rows are logged every third step
    out = stopped_run(tmp_path / "run", data, *steps)
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)


def test_with_reshuffled_sequences_a_stopped_run_ends_with_the_same_bits(
    finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    overrides = ("data.sequences.reshuffle=true",)
    straight = start_run(tiny.run(*overrides), tmp_path / "straight", data).path
    out = stopped_run(tmp_path / "run", data, 3, 12, 24, overrides=overrides)
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    assert tiny.fingerprint(out) != tiny.fingerprint(finished)


def test_with_masked_documents_a_stopped_run_ends_with_the_same_bits(
    finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    overrides = ("data.sequences.mask_documents=true",)
    straight = start_run(tiny.run(*overrides), tmp_path / "straight", data).path
    out = stopped_run(tmp_path / "run", data, 3, 12, 24, overrides=overrides)
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    assert tiny.fingerprint(out) != tiny.fingerprint(finished)


@pytest.mark.fault("A25", cases=4)
@pytest.mark.parametrize(
    "setting",
    ["validation.every_steps=1", "samples.every_steps=1", "checkpoint.every_steps=1", "training.log_every_steps=1"],
)
def test_evaluating_and_saving_more_often_gives_the_same_weights(
    setting: str, finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = start_run(tiny.run(setting), tmp_path / "run", data).path
    states = [load(RunDir.open(folder), "latest").checkpoint.state for folder in (out, finished)]
    for name, array in states[0].weights.items():
        assert np.array_equal(array, states[1].weights[name]), name


def _forget_moments(engine: TorchEngine, state: Any) -> None:
    zeros = {name: np.zeros_like(array) for name, array in state.optimizer_state.items()}
    engine.optimizer.restore(zeros, engine.steps)


def _forget_second(engine: TorchEngine, state: Any) -> None:
    kept = {n: np.zeros_like(a) if n.startswith("second.") else a for n, a in state.optimizer_state.items()}
    engine.optimizer.restore(kept, engine.steps)


def _forget_optimizer_step(engine: TorchEngine, state: Any) -> None:
    engine.optimizer.restore(state.optimizer_state, 0)


def _forget_dropout_step(engine: TorchEngine, state: Any) -> None:
    engine.steps = 0


ENGINE_MUTANTS = [_forget_moments, _forget_second, _forget_optimizer_step, _forget_dropout_step]
PROGRESS_MUTANTS = {"data position": "sequences", "tokens": "tokens", "schedule": "step"}
FORGOTTEN = {"best loss": {"best_loss": 0.0}, "gradient norms": {"gradient_norms": ""}}


@pytest.mark.fault("A12", cases=9)
@pytest.mark.parametrize(
    "forget",
    [*ENGINE_MUTANTS, *PROGRESS_MUTANTS, *FORGOTTEN],
    ids=lambda forget: getattr(forget, "__name__", forget),
)
def test_a_resume_without_any_part_of_the_state_is_detected(
    forget: Any, finished: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test the test: each mutant of the resume code must give other bits."""
    out = stopped_run(tmp_path / "run", data, 24)
    if callable(forget):
        restore = TorchEngine.restore

        def mutant(engine: TorchEngine, state: Any) -> None:
            restore(engine, state)
            forget(engine, state)

        monkeypatch.setattr(TorchEngine, "restore", mutant)
    else:
        whole = training_run.restore

        def partial(of: Any) -> tuple[Progress, Any]:
            progress, saved = whole(of)
            values = {"step": progress.step, "sequences": progress.sequences, "tokens": progress.tokens}
            if forget not in PROGRESS_MUTANTS:
                return progress, {**saved, **FORGOTTEN[forget]}
            return Progress(**(values | {PROGRESS_MUTANTS[forget]: 0 if forget != "schedule" else 20})), saved

        monkeypatch.setattr(training_run, "restore", partial)
    resume(out)
    assert tiny.fingerprint(out) != tiny.fingerprint(finished)


@pytest.fixture(scope="module")
def finished_with_muon(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_run(tiny.run("optimizer.kind=muon"), tmp_path_factory.mktemp("runs") / "muon", data).path


def test_with_muon_a_stopped_run_ends_with_the_same_bits(
    finished_with_muon: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = stopped_run(tmp_path / "run", data, 3, 12, 24, overrides=("optimizer.kind=muon",))
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(finished_with_muon)


@pytest.mark.parametrize("of_muon", [True, False])
def test_a_resume_without_the_state_of_muon_or_its_adamw_is_detected(
    of_muon: bool, finished_with_muon: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stopped_run(tmp_path / "run", data, 24, overrides=("optimizer.kind=muon",))
    restore = TorchEngine.restore

    def mutant(engine: TorchEngine, state: Any) -> None:
        restore(engine, state)
        assert isinstance(engine.optimizer.rule, MuonWithAdamW)
        (engine.optimizer.rule.muon.momenta if of_muon else engine.optimizer.rule.adamw.moments).clear()

    monkeypatch.setattr(TorchEngine, "restore", mutant)
    resume(out)
    assert tiny.fingerprint(out) != tiny.fingerprint(finished_with_muon)


AVERAGES = {"ema": "{kind: ema, decay: 0.9}", "mean": "{kind: mean, start: 50%}"}


@pytest.fixture(scope="module", params=AVERAGES)
def averaged(
    request: pytest.FixtureRequest, data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Return the setting of an average of the weights and an uninterrupted run with it."""
    setting = f"optimizer.average={AVERAGES[request.param]}"
    return setting, start_run(tiny.run(setting), tmp_path_factory.mktemp("averaged") / "run", data).path


@pytest.mark.parametrize("steps", [(3, 12), (24,), (21, 30)], ids=str)
def test_with_an_average_a_stopped_run_ends_with_the_same_bits(
    steps: tuple[int, ...], averaged: tuple[str, Path], data: TokenizedDataset, tmp_path: Path
) -> None:
    setting, straight = averaged
    out = stopped_run(tmp_path / "run", data, *steps, overrides=(setting,))
    resume(out)
    assert (out / "checkpoints" / "step-00000040" / "average.safetensors").exists()
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)


def test_an_average_changes_neither_the_weights_nor_the_best_checkpoint(
    averaged: tuple[str, Path], finished: Path
) -> None:
    runs = [RunDir.open(path) for path in (averaged[1], finished)]
    first, second = (load(run, "latest").checkpoint.state for run in runs)
    assert all(np.array_equal(array, second.weights[name]) for name, array in first.weights.items())
    assert runs[0].read_pointer("best") == runs[1].read_pointer("best")
    rows = [[row for row in tiny.metrics(run.path) if row["kind"] != "final_average"] for run in runs]
    assert rows[0] == rows[1]


def test_at_the_end_the_loss_of_the_average_is_measured_once(averaged: tuple[str, Path]) -> None:
    outcome = resume(averaged[1])
    rows = [row for row in tiny.metrics(averaged[1]) if row["kind"] in {"final", "final_average"}]
    assert [row["kind"] for row in rows] == ["final", "final_average"]
    assert outcome.average_score is not None
    assert (outcome.average_score.loss, outcome.score.loss) == (rows[1]["loss"], rows[0]["loss"])
    assert rows[0]["loss"] != rows[1]["loss"]


def test_a_percentage_is_saved_in_steps_and_stays_in_a_longer_run(data: TokenizedDataset, tmp_path: Path) -> None:
    run = tiny.run("optimizer.average={kind: mean, start: 50%}", steps=6)
    out = start_run(run, tmp_path / "run", data).path
    assert RunDir.open(out).run.optimizer.average == MeanAverage(start=3)
    api.resume(out, steps=9)
    assert RunDir.open(out).run.optimizer.average == MeanAverage(start=3)
    assert load(RunDir.open(out), "latest").checkpoint.state.scalars["averaged"] == 6


def test_a_mean_that_begins_at_the_end_of_the_run_is_refused(data: TokenizedDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run has only 40 steps") as refused:
        start_run(tiny.run("optimizer.average={kind: mean, start: 40}"), tmp_path / "run", data)
    assert "optimizer.average.start=80%" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_with_another_average_from_a_step_on_the_config_and_the_manifest_say_so(
    data: TokenizedDataset, tmp_path: Path
) -> None:
    mean = "optimizer.average={kind: mean, start: 2}"
    out = start_run(tiny.run(mean, "checkpoint.keep_last=9", steps=6), tmp_path / "run", data).path
    api.resume(out, steps=9, settings={"optimizer.average": {"kind": "ema"}})
    run_dir = RunDir.open(out)
    assert run_dir.run.optimizer.average == ExponentialAverage()
    assert run_dir.manifest["changes"][-1]["settings"]["optimizer.average.kind"] == ["mean", "ema"]
    assert config_at(run_dir, 5).optimizer.average == MeanAverage(start=2)
    assert load(run_dir, "latest").checkpoint.state.scalars["averaged"] == 3
    api.resume(out, checkpoint=5, out=tmp_path / "branch", steps=9)
    straight = start_run(tiny.run(mean, steps=9), tmp_path / "straight", data).path
    averages = [load(RunDir.open(path), 9).checkpoint.state for path in (tmp_path / "branch", straight)]
    assert averages[0].scalars == averages[1].scalars


def _forget_average(state: State) -> State:
    return dataclasses.replace(state, average={name: np.zeros_like(array) for name, array in state.average.items()})


def _forget_count(state: State) -> State:
    return dataclasses.replace(state, scalars={**state.scalars, "averaged": 1})


def _forget_all(state: State) -> State:
    kept = {name: value for name, value in state.scalars.items() if name != "averaged"}
    return dataclasses.replace(state, average={}, scalars=kept)


@pytest.mark.fault("A12", cases=6)
@pytest.mark.parametrize("forget", [_forget_average, _forget_count, _forget_all])
def test_a_resume_without_a_part_of_the_average_is_detected(
    forget: Any, averaged: tuple[str, Path], data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, straight = averaged
    out = stopped_run(tmp_path / "run", data, 24, overrides=(setting,))
    restore = TorchEngine.restore
    monkeypatch.setattr(TorchEngine, "restore", lambda engine, state: restore(engine, forget(state)))
    resume(out)
    assert tiny.fingerprint(out) != tiny.fingerprint(straight)


SCALED = ("training.precision={kind: fp16, initial_loss_scale: 1048576, loss_scale_growth_interval: 4}",)


def use_fp16(patch: pytest.MonkeyPatch) -> None:
    """Use fp16 on a CPU. Gradients overflow at first, and again whenever the loss scale has grown too much."""

    def half_precision(_requested: Any, device: torch.device, *_others: Any, **_more: Any) -> device_torch.Precision:
        return device_torch.Precision(torch.float16, scaled=True, device=device)

    patch.setattr(engine_torch, "resolve_precision", half_precision)


@pytest.fixture(scope="module")
def scaled(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return an uninterrupted run in fp16 with a loss scale, and the same run stopped at step 24."""
    folder = tmp_path_factory.mktemp("scaled")
    with pytest.MonkeyPatch.context() as patch:
        use_fp16(patch)
        uninterrupted = start_run(tiny.run(*SCALED), folder / "straight", data).path
        return uninterrupted, stopped_run(folder / "stopped", data, 24, overrides=SCALED)


@pytest.mark.fault("D4", cases=5)
@pytest.mark.parametrize("lost", ["", "loss_scale", "good_steps", "skipped_steps", "updates"])
def test_with_a_loss_scale_a_stopped_run_ends_with_the_same_bits_unless_part_of_it_is_lost(
    lost: str, scaled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fp16(monkeypatch)
    uninterrupted, stopped = scaled
    rows = [row for row in tiny.metrics(uninterrupted) if row["kind"] == "train"]
    assert rows[-1]["skipped_steps"] > 2
    assert len({row["loss_scale"] for row in rows}) > 2
    out = Path(shutil.copytree(stopped, tmp_path / "run", symlinks=True))
    restore = TorchEngine.restore

    def mutant(engine: TorchEngine, state: Any) -> None:
        kept = {name: value for name, value in state.scalars.items() if name != lost}
        restore(engine, dataclasses.replace(state, scalars=kept))

    monkeypatch.setattr(TorchEngine, "restore", mutant)
    resume(out)
    assert (tiny.fingerprint(out) == tiny.fingerprint(uninterrupted)) == (not lost)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = tiny.fingerprint(finished)
    outcome = resume(finished)
    assert (outcome.progress.step, tiny.fingerprint(finished)) == (tiny.STEPS, before)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    finished: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    def kill(row: Any) -> None:
        raise Killed

    with pytest.raises(Killed):
        start_run(tiny.run(), tmp_path / "run", data, trackers=[kill])
    resume(tmp_path / "run")
    assert "No checkpoint yet: the run starts again at step 0." in capsys.readouterr().err
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(finished)


def test_the_message_of_a_stop_has_the_resume_command(data: TokenizedDataset, tmp_path: Path) -> None:
    out, handler = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted) as caught:
        start_run(tiny.run(), out, data, callbacks=[StopAt(6, signal.SIGTERM)])
    assert str(caught.value) == f"Stopped at step 6 of 40; everything is saved. Resume with: fabella resume {out}"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_second_signal_ends_at_once(data: TokenizedDataset, tmp_path: Path) -> None:
    class SendTwice:
        def __call__(self, progress: Progress, result: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start_run(tiny.run(), tmp_path / "run", data, callbacks=[SendTwice()])


def test_a_run_can_be_trained_longer_than_planned(data: TokenizedDataset, tmp_path: Path) -> None:
    out = start_run(tiny.run(steps=10), tmp_path / "run", data).path
    outcome = api.resume(out, settings={"training.length.max_steps": 14, "checkpoint.every_steps": 2})
    assert outcome.progress.step == 14
    assert RunDir.open(out).run.training.length == MaxSteps(max_steps=14)
    assert [row["step"] for row in tiny.metrics(out) if row["kind"] == "final"] == [10, 14]


@pytest.mark.parametrize("setting", ["seed", "model.layers", "data.sequences.stride"])
def test_a_setting_that_changes_the_meaning_of_the_state_is_rejected(setting: str, finished: Path) -> None:
    with pytest.raises(ConfigError, match=setting.replace(".", r"\.")):
        api.resume(finished, settings={setting: 3})


def test_epochs_become_steps_when_the_data_is_known(data: TokenizedDataset) -> None:
    run = resolve_config(tiny.run("training.length.epochs=2", "training.gradient_accumulation=[[0, 1]]"), data)
    num_sequences = (data.train.tokens - 1) // 32
    assert run.training.length == MaxSteps(max_steps=-(-2 * num_sequences // 8))


def test_a_tokenizer_larger_than_the_embedding_is_rejected(data: TokenizedDataset) -> None:
    message = r"The tokenizer has 256 token ids, but the model's embedding has only 200 rows \(model.vocab_size\)"
    with pytest.raises(TokenizerError, match=message):
        resolve_config(tiny.run("model.vocab_size=200"), data)


def test_a_directory_with_another_run_is_not_changed(finished: Path, data: TokenizedDataset) -> None:
    before = tiny.fingerprint(finished)
    with pytest.raises(StorageError, match="run"):
        start_run(tiny.run("seed=9"), finished, data)
    assert tiny.fingerprint(finished) == before


@pytest.mark.fault("A7", cases=1)
def test_no_run_starts_without_space_for_its_checkpoints(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskFullError, match="the checkpoints of this run need"):
        start_run(tiny.run(), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()  # so that the command can be repeated with a smaller model


def test_no_unfinished_run_resumes_without_space_for_its_checkpoints(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_run(tmp_path / "run", data, 6)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskFullError, match="the checkpoints of this run need"):
        resume(tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1000)
    assert resume(tmp_path / "run").progress.step == tiny.STEPS


@pytest.mark.fault("B14", cases=1)
def test_changed_data_is_detected(tmp_path: Path) -> None:
    data = tiny.prepared(tmp_path)
    stopped_run(tmp_path / "run", data, 6)
    other = tiny.run("data.source.seed=2")
    (tmp_path / "prepared").rename(tmp_path / "before")
    tiny.prepared(tmp_path, other)
    with pytest.raises(PreparedDataError, match=r"is not the one that run .* started with"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", dataset=tmp_path / "before").progress.step == tiny.STEPS


def test_a_damaged_latest_checkpoint_costs_only_the_steps_since_the_previous_one(
    finished: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stopped_run(tmp_path / "run", data, 24)
    weights = out / "checkpoints" / "step-00000024" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    resume(out)
    assert "resuming from step-0000002" in capsys.readouterr().err
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        resume(tmp_path / "nothing")


def test_a_full_disk_is_retried_when_the_config_says_so(
    data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saves = []

    def full_at_first(*arguments: Any, **marks: bool) -> None:
        saves.append(arguments[1])
        if len(saves) == 1:
            raise DiskFullError("disk full: nothing free.")
        real_save(*arguments, **marks)

    real_save = checkpointing.save
    monkeypatch.setattr(checkpointing, "save", full_at_first)
    start_run(tiny.run("checkpoint.on_disk_full=retry"), tmp_path / "run", data)
    assert saves[0] == 5
    assert 5 < saves[1] < 10, "the next step after the failure, before the next save is due"
    assert "Step 5 could not be saved; the next step will be: disk full" in capsys.readouterr().err
    saves.clear()
    with pytest.raises(DiskFullError):
        start_run(tiny.run(), tmp_path / "stop", data)


def test_a_save_signal_saves_a_checkpoint_and_the_training_continues(
    finished: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    start_run(tiny.run("checkpoint.keep_last=100"), out, data, callbacks=[StopAt(23, signal.SIGUSR1)])
    assert {20, 23, 25} <= set(RunDir.open(out).steps())
    assert 24 not in RunDir.open(out).steps()
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
