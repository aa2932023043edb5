"""A refused or failed command leaves a run as it was; after an accepted one, its config says what was trained.

Rows I1 and I2 of the fault matrix. The settings are enumerated from the classes of the config, so that a new one is
covered without a change here.
"""

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch

from fabella.cli.main import run as fabella
from fabella.config.base import ConfigModel
from fabella.config.optimizer import MeanAverage, SchedulePhase
from fabella.data.dataset import open_dataset
from fabella.errors import OutOfMemoryError, TrainingInterrupted
from fabella.report import plots
from fabella.run_config.files import apply_overrides, known_keys, sections_at, to_yaml, validate_config
from fabella.runs.checkpoint import load
from fabella.runs.resume_rules import compare_for_resume, record_changes
from fabella.runs.run_dir import CHANGES, RunDir
from fabella.training.loop import Progress
from fabella.training.run import start_run
from tests.training import tiny

STEPS, STOPPED = 6, 4
SETTINGS = [
    "model.dim=8", "model.layers=1", "model.ffn_dim=8", "model.dropout=0.0", "training.micro_batch_size=2",
    "training.gradient_accumulation=[[0, 1]]", "checkpoint.every_steps=2", "validation.every_steps=2",
    "validation.num_sequences=2", "samples.every_steps=100",
]  # fmt: skip
RUN = tiny.run(*SETTINGS, steps=STEPS)
LEAVES = sorted(key for key in known_keys(RUN.model.family) if not sections_at(key.split(".")))
KINDS = sorted(
    f"{key.removesuffix('.kind')}.kind={kind}"
    for key in LEAVES
    if key.endswith(".kind")
    for section in sections_at(key.split(".")[:-1])
    if (kind := section.model_fields["kind"].default) is not None
)
FILES = ("config.yaml", "manifest.json", "metrics.jsonl", "samples.jsonl", "latest", "best")


def other_value(annotation: Any, current: Any) -> Any:
    """Return a value of a type that differs from ``current``; small, so that training with it is quick."""
    if get_origin(annotation) is Annotated:
        return other_value(get_args(annotation)[0], current)
    if get_origin(annotation) is Literal:
        return next((choice for choice in get_args(annotation) if choice != current), current)
    if get_origin(annotation) in {Union, UnionType}:
        return other_value(get_args(annotation)[0], current)
    if get_origin(annotation) is tuple:
        return other_tuple(get_args(annotation), current)
    if annotation is bool:
        return not current
    if annotation is int:
        return (current or 0) + 3
    if annotation is float:
        return 0.5 if current != 0.5 else 0.25
    assert annotation is str, annotation
    return "another"


def other_tuple(inner: tuple[Any, ...], current: Any) -> list[Any]:
    if inner[0] is str:
        return ["another"]
    if inner[0] is float:
        return [0.5, 0.75]
    if inner[0] is SchedulePhase:
        return [{"shape": "linear", "start": 0.5, "end": 0.25, "length": 3}]
    if get_origin(inner[0]) is Annotated:
        return [[0, 3]]
    return [{"weight": 1.0, "source": {"kind": "storybook", "stories": 24}}]


def change_of(key: str) -> list[str]:
    """Return the overrides that change one setting, with the kind of its section and whatever that kind requires."""
    *path, name = key.split(".")
    current: Any = RUN.model_dump(mode="json")
    for part in path:
        current = current.get(part, {}) if isinstance(current, dict) else {}
    places: list[type[ConfigModel]] = [type(RUN.model)] if path == ["model"] else sections_at(path)
    sections = [section for section in places if name in section.model_fields]
    section = next((found for found in sections if fits(found, current)), sections[0])
    overrides: list[str] = []
    if "kind" in section.model_fields and not fits(section, current):
        overrides.append(f"{'.'.join(path)}.kind={section.model_fields['kind'].default}")
        for required, field in section.model_fields.items():
            if field.is_required() and required not in {name, *current} and not sections_at([*path, required]):
                overrides.append(f"{'.'.join([*path, required])}={json.dumps(other_value(field.annotation, None))}")
    before = current.get(name) if isinstance(current, dict) else None
    value = other_value(section.model_fields[name].annotation, before)
    return [*overrides, f"{key}={json.dumps(value)}"]


def fits(section: type[ConfigModel], current: Any) -> bool:
    kind = section.model_fields.get("kind")
    return kind is None or kind.default == current.get("kind")


CHANGES_BY_KEY = {
    **{key: change_of(key) for key in LEAVES if not key.endswith(("kind", "family"))},
    **{change: [change] for change in [*KINDS, "model.family=gpt2"]},
}


def stop_at_four(progress: Progress, result: Any) -> None:
    if progress.step == STOPPED:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a dataset, the run ``stopped`` and its config as ``base.yaml``."""
    home = tmp_path_factory.mktemp("records")
    data = tiny.prepared(home, RUN)
    with pytest.raises(TrainingInterrupted):
        start_run(RUN, home / "stopped", data, device="cpu", callbacks=[stop_at_four])
    # As after a kill: a row of a step that no checkpoint has.
    with (home / "stopped" / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "train", "step": 5, "loss": 1.0, "seconds": 0.1}\n')
    (home / "base.yaml").write_text(to_yaml(RUN))
    return home


def not_compiled(block: Any, **_: Any) -> Any:
    return block


def no_plot(*_: Any) -> bytes:
    return b"a plot"


@pytest.fixture
def copy(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(stopped)
    monkeypatch.setattr(torch, "compile", not_compiled)  # compiling takes half a minute
    monkeypatch.setattr(plots, "plot", no_plot)  # drawing takes as long as all the rest
    hub: Any = importlib.import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(hub, "time", SimpleNamespace(sleep=lambda seconds: None))  # between retries
    monkeypatch.setitem(sys.modules, "wandb", None)
    path = stopped / tmp_path.name
    shutil.copytree(stopped / "stopped", path)
    yield path
    shutil.rmtree(path)


def contents(folder: Path) -> dict[str, bytes]:
    locks = {".lock", ".lock-holder"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in locks
    }


def weights(folder: Path) -> dict[str, Any]:
    return dict(load(RunDir.open(folder), "latest").checkpoint.state.weights)


def require_true_record(path: Path, before: dict[str, bytes], code: int, overrides: Sequence[str], home: Path) -> None:
    """Check a run after a command that would resume it with ``overrides`` and ended with ``code``."""
    if code:
        assert contents(path) == before
        return
    requested = validate_config(apply_overrides(RUN.model_dump(mode="json"), overrides))
    saved = RunDir.open(path)
    differences = compare_for_resume(RUN, saved.run)
    if requested.training.length != RUN.training.length:  # the schedule is changed so that the rate does not jump
        schedule = {"schedule": saved.run.optimizer.schedule}
        requested = requested.model_copy(update={"optimizer": requested.optimizer.model_copy(update=schedule)})
    if isinstance(requested.optimizer.average, MeanAverage):  # a run saves its start in steps
        start = requested.optimizer.average.start_step(saved.run.training.length.max_steps)
        average = {"average": MeanAverage(start=start)}
        requested = requested.model_copy(update={"optimizer": requested.optimizer.model_copy(update=average)})
    if isinstance(requested.training.length, type(RUN.training.length)):
        assert saved.run == requested
    assert saved.manifest.get(CHANGES, []) == record_changes([], RUN, saved.run, STOPPED)
    assert fabella(["resume", str(path), "--device", "cpu"]) == 0
    if all(difference.verdict == "allow" for difference in differences):
        again = start_run(saved.run, home / f"{path.name}-again", open_dataset(home / "prepared"), device="cpu").path
        trained, retrained = weights(path), weights(again)
        shutil.rmtree(again)
        assert all(np.array_equal(trained[name], retrained[name]) for name in trained)


@pytest.mark.fault("I1", cases=len(CHANGES_BY_KEY))
@pytest.mark.fault("I2", cases=len(CHANGES_BY_KEY))
@pytest.mark.parametrize("key", CHANGES_BY_KEY)
def test_resuming_with_a_changed_setting_is_refused_without_a_trace_or_recorded(
    key: str, copy: Path, stopped: Path
) -> None:
    overrides = CHANGES_BY_KEY[key]
    before = contents(copy)
    code = fabella(["resume", str(copy), "--device", "cpu", *overrides])
    require_true_record(copy, before, code, overrides, stopped)


@pytest.mark.fault("I1", cases=len(CHANGES_BY_KEY))
@pytest.mark.fault("I2", cases=len(CHANGES_BY_KEY))
@pytest.mark.parametrize("key", CHANGES_BY_KEY)
def test_training_with_resume_and_a_changed_setting_is_refused_without_a_trace_or_recorded(
    key: str, copy: Path, stopped: Path
) -> None:
    overrides = CHANGES_BY_KEY[key]
    before = contents(copy)
    code = fabella(["train", "base.yaml", "--out", str(copy), "--resume", "--device", "cpu", *overrides])
    require_true_record(copy, before, code, overrides, stopped)


OTHER_COMMANDS: dict[str, tuple[int, list[str]]] = {
    "train again": (4, ["train", "base.yaml", "--out", "RUN"]),
    "train the run": (2, ["train", "RUN", "--data", "storybook:30"]),
    "train from its text": (3, ["train", "storybook-1m", "--data", "RUN"]),
    "a typing error": (2, ["resume", "RUN", "optimizer.lrr=3"]),
    "no such device": (2, ["resume", "RUN", "--device", "cuda:99"]),
    "no such engine": (2, ["resume", "RUN", "--engine", "tensorflow"]),
    "no such optimizer for the engine": (2, ["resume", "RUN", "--engine", "jax", "optimizer.kind=muon"]),
    "no such dataset": (3, ["resume", "RUN", "--data", "nowhere"]),
    "fewer steps than taken": (2, ["resume", "RUN", "--steps", "3"]),
    "no such devices": (2, ["resume", "RUN", "--devices", "none"]),
    "tune": (2, ["tune", "RUN"]),
    "compare": (2, ["compare-architectures", "RUN"]),
    "batch size": (2, ["batch-size", "RUN"]),
    "prepare": (3, ["prepare", "RUN", "--out", "elsewhere"]),
    "check data": (3, ["check-data", "RUN"]),
    "plan": (0, ["plan", "RUN", "--no-measure"]),
    "verify": (0, ["verify", "RUN"]),
    "generate": (0, ["generate", "RUN", "Once", "--max-tokens", "2"]),
    "generate from a step that was not saved": (4, ["generate", "RUN", "--checkpoint", "3"]),
    "perplexity": (0, ["perplexity", "RUN", "Once upon a time"]),
    "samples": (0, ["samples", "RUN", "--max-tokens", "2"]),
    "report": (0, ["report", "RUN"]),
    "evaluate": (0, ["evaluate", "RUN", "--num-samples", "0", "--num-cloze", "0"]),
    "evaluate with other data": (3, ["evaluate", "RUN", "--data", "nowhere"]),
    "replay": (4, ["replay-step", "RUN/failures/step-00000001"]),
}


@pytest.mark.fault("I1", cases=len(OTHER_COMMANDS))
@pytest.mark.parametrize("name", OTHER_COMMANDS)
def test_no_other_command_changes_the_record_of_a_run(
    name: str, copy: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, words = OTHER_COMMANDS[name]
    before = contents(copy)
    code = fabella([word.replace("RUN", str(copy)) for word in words])
    after = contents(copy)
    assert {file: after.get(file) for file in before} == before
    assert code == expected
    if code:
        assert after == before


@pytest.mark.fault("I1", cases=3)
@pytest.mark.parametrize("when", ["the engine is built", "the checkpoint is loaded", "the first step is taken"])
def test_a_resume_that_fails_before_its_first_step_changes_nothing(
    when: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example for lack of memory: the next resume does not repeat the setting that was too large."""

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError(when)

    places = {
        "the engine is built": "fabella.engine.engine.create_engine",
        "the checkpoint is loaded": "fabella.engine.engine_torch.TorchEngine.restore",
        "the first step is taken": "fabella.engine.engine_torch.TorchEngine.step",
    }
    monkeypatch.setattr(places[when], fail)
    before = contents(copy)
    words = ["resume", str(copy), "--device", "cpu", "training.micro_batch_size=8", "tracking.tensorboard=true"]
    assert fabella(words) == OutOfMemoryError.exit_code
    assert contents(copy) == before
    monkeypatch.undo()
    assert fabella(["resume", str(copy), "--device", "cpu"]) == 0
