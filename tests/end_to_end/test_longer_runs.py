"""Tests of cadences in epochs, permanent checkpoints and the validation batch size, in both engines."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.cli.main import run as fabella
from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.errors import CheckpointError, ConfigError, TrainingInterrupted, UsageError
from fabella.report import run_history
from fabella.report.page import page
from fabella.runs import branch as branching
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.runs.verify import verify
from fabella.training import api
from fabella.training.distributed_run import start_or_resume
from fabella.training.run import resume, start_run
from tests.runs import stub
from tests.training import tiny
from tests.training.test_run import StopAt

ENGINES = ("torch", "jax")
STEPS = 16
# A single global batch size, because JAX compiles a step for each.
SHORT = (
    "model.layers=1",
    "training.gradient_accumulation=[[0, 2]]",
    "samples.max_tokens=4",
    "checkpoint.every_steps=5",
)


class KilledError(Exception):
    """Stands for a process that is killed."""


def kill_at(step: int) -> Any:
    def callback(progress: Any, result: Any) -> None:
        if progress.step == step:
            raise KilledError

    return callback


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "jax":
        pytest.importorskip("jax")
    return str(request.param)


EPOCHS = (
    "validation.every_epochs=0.05",
    "validation.batch_size=3",
    "checkpoint.every_epochs=0.1",
    "samples.every_epochs=0.2",
    "checkpoint.keep_last=1",
    "checkpoint.keep_every_steps=6",
    "checkpoint.milestones=[doubling, 3]",
)


def test_a_run_with_cadences_in_epochs_and_kept_checkpoints_ends_with_the_same_bits_when_killed(
    engine: str, data: TokenizedDataset, tmp_path: Path
) -> None:
    run = tiny.run(*SHORT, *EPOCHS, f"engine={engine}", steps=STEPS)
    uninterrupted = start_run(run, tmp_path / "straight", data).path
    with pytest.raises(KilledError):
        start_run(run, tmp_path / "run", data, callbacks=[kill_at(7)])
    with pytest.raises(KilledError):
        resume(tmp_path / "run", callbacks=[kill_at(14)])
    resume(tmp_path / "run")
    assert tiny.fingerprint(tmp_path / "run") == tiny.fingerprint(uninterrupted)
    for folder in (uninterrupted, tmp_path / "run"):
        permanent = {1, 2, 3, 4, 6, 8, 12, 16}
        steps = set(RunDir.open(folder).steps())
        assert permanent <= steps
        assert len(steps - permanent) <= 2, "the best one, and the one that was loaded"


def test_validation_with_another_batch_size_gives_the_same_losses(data: TokenizedDataset, tmp_path: Path) -> None:
    losses = []
    for size in (0, 3):
        out = start_run(tiny.run(*SHORT, f"validation.batch_size={size}", steps=7), tmp_path / str(size), data).path
        losses.append([row["loss"] for row in tiny.metrics(out) if row["kind"] in {"validation", "final"}])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert load(RunDir.open(tmp_path / "3"), "best").step == 7


SCHEDULES = {
    "constant": "[]",
    "warm-up": "[{shape: linear, start: 0.0, end: 1.0, length: 5%}]",
    "linear": "[{shape: linear, start: 0.0, end: 1.0, length: 9%}, {shape: linear, start: 1.0, end: 0.0, length: 91%}]",
    "cosine": "[{shape: linear, start: 0.0, end: 1.0, length: 9%}, {shape: cosine, start: 1.0, end: 0.1, length: 91%}]",
    "stable-decay": "[{shape: linear, start: 1, end: 1, length: 60%}, {shape: sqrt, start: 1, end: 0, length: 40%}]",
    "steps": "[{shape: linear, start: 0.0, end: 1.0, length: 2}, {shape: cosine, start: 1.0, end: 0.1, length: 8}]",
}


@pytest.fixture(scope="module")
def begun(data: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs of 10 steps, one for each engine and schedule, which tests copy."""
    return tmp_path_factory.mktemp("begun")


def run_of(begun: Path, engine: str, schedule: str, data: TokenizedDataset, out: Path) -> Path:
    """Return a copy of a finished run of 10 steps."""
    original = begun / f"{engine}-{schedule}"
    if not original.exists():
        schedule = f"optimizer.schedule={SCHEDULES[schedule]}"
        settings = (*SHORT, "checkpoint.keep_last=9", f"engine={engine}", schedule, "training.log_every_steps=1")
        start_run(tiny.run(*settings, steps=10), original, data)
    shutil.copytree(original, out)
    return out


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs end with the same bits in weights and optimizer state."""
    states = [load(RunDir.open(folder), "latest").checkpoint.state for folder in (one, other)]
    arrays = [{**state.weights, **state.optimizer_state} for state in states]
    return list(arrays[0]) == list(arrays[1]) and all(np.array_equal(arrays[0][n], arrays[1][n]) for n in arrays[0])


def rates(out: Path) -> dict[int, float]:
    return {row["step"]: row["lr"] for row in tiny.metrics(out) if row["kind"] == "train"}


@pytest.mark.fault("I5", cases=1)
@pytest.mark.parametrize("more", [1, 6, 30])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_of_a_longer_run_does_not_jump_and_is_printed(
    schedule: str, more: int, begun: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_of(begun, "torch", schedule, data, tmp_path / "run")
    before = rates(out)
    capsys.readouterr()
    api.resume(out, steps=10 + more)
    printed = capsys.readouterr().err
    after = rates(out)
    peak = RunDir.open(out).run.optimizer.lr
    assert {step: after[step] for step in before} == before
    assert abs(after[11] - after[10]) <= 0.05 * peak + 1e-12
    assert min(after.values()) > 0
    assert f"Learning rate: {after[10]:.3g} at step 10, {after[11]:.3g} at step 11" in printed
    assert "jumps" not in printed
    straight = start_run(RunDir.open(out).run, tmp_path / "straight", data).path
    assert rates(straight) == after, "the saved config trains with the rates of both parts"


@pytest.mark.fault("I5", cases=1)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_longer_run_killed_and_resumed_ends_with_the_same_bits(
    engine: str, schedule: str, begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    for name in ("straight", "killed"):
        run_of(begun, engine, schedule, data, tmp_path / name)
    api.resume(tmp_path / "straight", steps=24)
    with pytest.raises(KilledError):
        api.resume(tmp_path / "killed", steps=24, callbacks=[kill_after(13)])
    with pytest.raises(KilledError):
        api.resume(tmp_path / "killed", callbacks=[kill_after(19)])
    api.resume(tmp_path / "killed")
    assert tiny.fingerprint(tmp_path / "killed") == tiny.fingerprint(tmp_path / "straight")


def kill_after(step: int) -> Any:
    def callback(taken: Any) -> None:
        if taken.progress.step == step:
            raise KilledError

    return callback


@pytest.mark.fault("I5", cases=1)
@pytest.mark.parametrize(("change", "expected"), [("stretch", True), ("hold", False), ("decay", False)])
def test_a_jump_that_was_requested_is_a_warning(
    change: str, expected: bool, begun: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    api.resume(out, steps=20, schedule=change)
    assert ("warning: the learning rate jumps." in capsys.readouterr().err) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr": 1e-3}, "warning: the learning rate jumps: its peak changes from 0.004 to 0.001 (optimizer.lr)"),
        ({"batch_size": 4}, "Batch: 16 sequences before, 8 from step 11 on."),
        ({"settings": {"training.gradient_accumulation": [[0, 2], [10, 3]]}}, "Batch: 16 sequences before, 24 from"),
        ({"batch_size": 4, "settings": {"training.gradient_accumulation": [[0, 4]]}}, ""),
    ],
)
def test_what_a_change_makes_of_the_next_step_is_printed_in_numbers(
    changes: dict[str, Any], expected: str, begun: Path, data: TokenizedDataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    capsys.readouterr()
    api.resume(out, steps=11, **changes)
    printed = capsys.readouterr().err
    assert expected in printed
    assert ("Batch: " in printed) == ("Batch: " in expected)


def test_resuming_a_finished_run_says_how_to_train_it_longer(
    begun: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    capsys.readouterr()
    api.resume(out)
    command = f"fabella resume {out} --steps 20"
    assert f"All 10 steps are taken. To train it longer: {command}" in capsys.readouterr().err
    assert fabella(command.split()[1:]) == 0
    assert RunDir.open(out).steps()[-1] == 20
    assert "steps are taken" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("length", "steps"), [({"epochs": 0.5}, None), ({"tokens": 512 * 13}, 13), ({"minutes": 0.001}, None)]
)
def test_a_run_is_extended_in_any_unit(
    length: dict[str, Any], steps: int | None, begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    result = api.resume(out, **length)
    assert result.progress.step > 10
    assert steps in {None, result.progress.step}


def test_the_same_train_command_extends_a_run_once(begun: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    out = run_of(begun, "torch", "linear", data, tmp_path / "run")
    first = RunDir.open(out).run
    longer = first.model_copy(update={"training": first.training.model_copy(update={"length": MaxSteps(max_steps=16)})})
    plan = start_or_resume(lambda dataset: longer, out, lambda: data)
    assert len(plan.run.optimizer.schedule) > len(first.optimizer.schedule)
    resume(out, run=plan.run)
    again = start_or_resume(lambda dataset: longer, out, lambda: data)
    assert again.run == RunDir.open(out).run


def test_a_branch_of_an_unchanged_run_ends_with_the_same_weights(
    engine: str, begun: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = run_of(begun, engine, "cosine", data, tmp_path / "parent")
    before = stub.contents(parent)
    with pytest.raises(KilledError):
        api.resume(parent, checkpoint=5, out=tmp_path / "branch", callbacks=[kill_after(8)])
    assert "branch begins with step 5 of" in capsys.readouterr().err
    api.resume(tmp_path / "branch")
    assert stub.contents(parent) == before
    assert same_weights(parent, tmp_path / "branch")
    run_dir = RunDir.open(tmp_path / "branch")
    weights = (parent / "checkpoints" / "step-00000005" / "model.safetensors").read_bytes()
    assert run_dir.manifest["parent"] == {
        "run": "parent",
        "path": "../parent",
        "step": 5,
        "model_sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert rates(tmp_path / "branch") == rates(parent)
    assert not [finding for finding in verify(tmp_path / "branch") if finding.level != "remark"]
    assert run_dir.read_pointer("best") in run_dir.steps()


def test_a_branch_with_another_rate_and_length(begun: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    parent = run_of(begun, "torch", "cosine", data, tmp_path / "parent")
    out = tmp_path / "branch"
    api.resume(parent, checkpoint=5, out=out, steps=14, schedule="decay", settings={"optimizer.lr": 2e-3})
    assert RunDir.open(out).run.optimizer.schedule[-1].length == 9
    assert {step: rates(out)[step] for step in range(1, 6)} == {step: rates(parent)[step] for step in range(1, 6)}
    assert rates(out)[6] < 2e-3


@pytest.mark.parametrize(
    "refused", [["--steps", "4"], ["--device", "cuda:99"], ["--data", "nowhere"], ["tracking.wandb.project="]], ids=str
)
def test_a_refused_branch_leaves_no_directory(
    refused: list[str], begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    before = tiny.fingerprint(out)
    branch = tmp_path / "branch"
    assert fabella(["resume", str(out), "--checkpoint", "5", "--out", str(branch), *refused]) in (2, 3)
    assert not branch.exists()
    assert tiny.fingerprint(out) == before


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("refused", [["--device", "cuda:99"], ["--data", "nowhere"], ["model.dim=9"]], ids=str)
def test_a_refused_resume_prints_no_change_that_does_not_happen(
    refused: list[str], branch: bool, begun: Path, data: TokenizedDataset, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = run_of(begun, "torch", "cosine", data, tmp_path / "run")
    words = ["--checkpoint", "5", "--out", str(tmp_path / "branch")] if branch else []
    capsys.readouterr()
    assert fabella(["resume", str(out), *words, "--steps", "20", "--lr", "1e-3", *refused])
    assert capsys.readouterr().err.startswith("fabella: ")
    if refused[0] != "model.dim=9":
        start = ["train", str(out / "config.yaml"), "--out", str(out), "--data", str(data.path), "--resume"]
        assert fabella([*start, "--steps", "20", *refused])
        assert capsys.readouterr().err.startswith("fabella: ")


def test_a_branch_that_exists_is_kept_when_its_resume_is_refused(
    begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    out, branch = run_of(begun, "torch", "cosine", data, tmp_path / "run"), tmp_path / "branch"
    branching.branch(RunDir.open(out), 5, branch)
    assert fabella(["resume", str(branch), "--device", "cuda:99"]) == 2
    assert fabella(["resume", str(out), "--checkpoint", "5", "--out", str(branch)]) == 4
    assert RunDir.open(branch).steps() == [5]


@pytest.mark.parametrize("leftover", [True, False])
def test_a_branch_that_was_interrupted_is_made_again(
    leftover: bool, begun: Path, data: TokenizedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, out = run_of(begun, "torch", "cosine", data, tmp_path / "parent"), tmp_path / "branch"
    with monkeypatch.context() as patched:
        patched.setattr(branching, "set_best" if leftover else "save", gone)
        with pytest.raises(KilledError):
            api.resume(parent, out=out)
    assert not (out / "config.yaml").exists()
    api.resume(parent, out=out, steps=12)
    assert RunDir.open(out).steps()[-1] == 12


def gone(*arguments: Any, **named: Any) -> None:
    raise KilledError


def test_a_checkpoint_without_a_directory_and_a_missing_checkpoint_are_refused(
    begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    parent = run_of(begun, "torch", "cosine", data, tmp_path / "parent")
    with pytest.raises(UsageError, match=r"--checkpoint 5 of .* begins a new run.*--out "):
        api.resume(parent, checkpoint=5)
    with pytest.raises(CheckpointError, match="has no step-00000004"):
        api.resume(parent, checkpoint=4, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="Unknown checkpoint 'newest'"):
        api.resume(parent, checkpoint="newest", out=tmp_path / "other")


def test_a_fresh_optimizer_is_recorded_and_resumed_exactly(
    engine: str, begun: Path, data: TokenizedDataset, tmp_path: Path
) -> None:
    for name in ("straight", "killed"):
        run_of(begun, engine, "constant", data, tmp_path / name)
    api.resume(tmp_path / "straight", steps=20, reset_optimizer=True, schedule="rewarm")
    with pytest.raises(KilledError):
        api.resume(tmp_path / "killed", steps=20, reset_optimizer=True, schedule="rewarm", callbacks=[kill_after(13)])
    api.resume(tmp_path / "killed")
    assert tiny.fingerprint(tmp_path / "killed") == tiny.fingerprint(tmp_path / "straight")
    run_dir = RunDir.open(tmp_path / "straight")
    assert run_dir.run.optimizer.reset_after == (10,)
    assert load(run_dir, "latest").checkpoint.state.scalars["updates"] == 10
    repeated = start_run(run_dir.run, tmp_path / "repeated", data).path
    assert same_weights(repeated, tmp_path / "straight"), "the saved config trains the same"


def test_muon_and_back_with_a_fresh_optimizer(begun: Path, data: TokenizedDataset, tmp_path: Path) -> None:
    for name in ("straight", "killed"):
        run_of(begun, "torch", "constant", data, tmp_path / name)
    muon = {"optimizer.kind": "muon", "optimizer.lr": 2e-3}
    with pytest.raises(ConfigError, match=r"--reset-optimizer"):
        api.resume(tmp_path / "straight", steps=15, settings=muon)
    for name in ("straight", "killed"):
        if name == "killed":
            with pytest.raises(KilledError):
                api.resume(tmp_path / name, steps=15, settings=muon, reset_optimizer=True, callbacks=[kill_after(12)])
            api.resume(tmp_path / name)
        else:
            api.resume(tmp_path / name, steps=15, settings=muon, reset_optimizer=True)
        api.resume(tmp_path / name, steps=20, settings={"optimizer.kind": "adamw"}, reset_optimizer=True)
    assert tiny.fingerprint(tmp_path / "killed") == tiny.fingerprint(tmp_path / "straight")
    assert not [finding for finding in verify(tmp_path / "straight") if finding.level == "damaged"]
    assert RunDir.open(tmp_path / "straight").run.optimizer.reset_after == (10, 15)


def test_verify_and_report_say_what_a_branch_began_with(
    begun: Path, data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, out = run_of(begun, "torch", "cosine", data, tmp_path / "parent"), tmp_path / "branch"
    api.resume(parent, checkpoint=5, out=out, steps=12)
    capsys.readouterr()
    digest = RunDir.open(out).manifest["parent"]["model_sha256"][:12]
    assert fabella(["verify", str(out)]) == 0
    assert f"the run is a branch of parent, step 5 (sha256 {digest})." in capsys.readouterr().out
    assert f"This run is a branch of parent, step 5 (sha256 {digest})." in page([run_history.read(out)])
    run_dir = RunDir.open(out)
    run_dir.with_manifest(parent={**run_dir.manifest["parent"], "model_sha256": "0" * 64})
    assert ("damaged", "step-00000005") in [(finding.level, finding.where) for finding in verify(out)]


def test_the_last_line_names_the_best_checkpoint_if_it_is_another(
    data: TokenizedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(tiny.run(*SHORT, steps=10), out, data, callbacks=[StopAt(8)])
    loss = next(row["bits_per_byte"] for row in tiny.metrics(out) if row["kind"] == "validation" and row["step"] == 7)
    assert fabella(["resume", str(out), "validation.every_steps=0"]) == 0
    assert f"The best checkpoint is that of step 7, with {loss:.4f} bits per byte" in capsys.readouterr().out
    assert fabella(["resume", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["best_step"], result["best_bits_per_byte"]) == (7, loss)
