"""Tests that checkpoints are restored bit for bit, never loaded if incomplete, and pruned."""

import dataclasses
import math
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from fabella.config.optimizer import MeanAverage
from fabella.engine.engine import State
from fabella.errors import CheckpointError, DiskFullError, StorageError, UsageError
from fabella.runs.checkpoint import (
    Checkpoint,
    latest_valid_step,
    load,
    load_weights,
    parse_which,
    prune,
    require_space,
    restore_best,
    return_to,
    save,
    set_best,
)
from fabella.runs.run_dir import RunDir
from fabella.runs.verify import verify
from tests.runs import stub


@pytest.mark.parametrize("name", ["8", "step-00000008", 8])
def test_a_checkpoint_is_named_by_its_step_or_as_errors_list_it(name: str | int) -> None:
    assert parse_which(name) == 8


@pytest.mark.parametrize("name", ["step-8", "eight", "-1", "\N{FULLWIDTH DIGIT EIGHT}", ""])
def test_another_name_of_a_checkpoint_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Use best, latest, or a step number"):
        parse_which(name)


def test_a_saved_checkpoint_is_restored_bit_for_bit(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [120])
    loaded = load(RunDir.open(tmp_path), "latest")
    assert stub.same(loaded.checkpoint, stub.checkpoint(120))
    assert (loaded.step, loaded.warnings) == (120, [])
    assert sorted(item.name for item in folder.checkpoints.iterdir()) == ["step-00000120"]


def test_special_floats_and_numbers_are_restored_bit_for_bit(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path)
    checkpoint = stub.checkpoint(1)
    for array in checkpoint.state.weights.values():
        array.reshape(-1)[:2] = np.array([0x7FC00001, 0x80000000], np.uint32).view(np.float32)  # a NaN with a payload
    progress = {"best_loss": 0.1 + 0.2, "tokens": 2**63 + 1, "words": "naïve\n"}
    save(folder, 1, Checkpoint(checkpoint.state, progress))
    assert stub.same(load(folder, 1).checkpoint, Checkpoint(checkpoint.state, progress))


def test_weights_can_be_loaded_without_the_optimizer_state(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [120])
    (folder.checkpoints / "step-00000120" / "optimizer.safetensors").unlink()
    loaded = load(folder, 120, weights_only=True)
    assert loaded.checkpoint.state.optimizer_state == {}
    assert list(loaded.checkpoint.state.weights) == list(stub.TABLE)
    with pytest.raises(CheckpointError, match=r"step-00000120/optimizer.safetensors: missing\."):
        load(folder, 120)


def averaged(step: int, count: int = 5) -> Checkpoint:
    """Return a checkpoint with an average of ``count`` weights; of all but the embedding, as if that was frozen."""
    plain = stub.checkpoint(step)
    average = {name: array + 1 for name, array in plain.state.weights.items() if name in FROZEN.trainable_parameters}
    moments = {
        name: array for name, array in plain.state.optimizer_state.items() if not name.endswith("embedding.weight")
    }
    scalars = {**plain.state.scalars, "averaged": count}
    return Checkpoint(State(plain.state.weights, moments, scalars, average), plain.progress)


FROZEN = stub.RUN.model_copy(
    update={
        "training": stub.RUN.training.model_copy(update={"freeze": ("embedding.*",)}),
        "optimizer": stub.RUN.optimizer.model_copy(update={"average": MeanAverage(start=115)}),
    }
)


def with_average(path: Path) -> RunDir:
    """Return a run with an average of the weights at its last checkpoint, of step 120, but not at the one before."""
    folder = stub.folder(path, run=FROZEN)
    before = averaged(110).state
    state = dataclasses.replace(before, average={}, scalars={**before.scalars, "averaged": 0})
    save(folder, 110, Checkpoint(state, stub.checkpoint(110).progress))
    save(folder, 120, averaged(120))
    return folder


def test_an_average_is_restored_bit_for_bit(tmp_path: Path) -> None:
    folder = with_average(tmp_path)
    expected, loaded = averaged(120), load(folder, "latest").checkpoint
    assert stub.same(loaded, expected)
    assert list(loaded.state.average) == list(FROZEN.trainable_parameters)
    for name, array in expected.state.average.items():
        assert np.array_equal(loaded.state.average[name], array)
    assert load(folder, 110).checkpoint.state.average == {}
    assert verify(tmp_path)[0].where == "tokenizer"  # the only file that is missing
    assert not any("step-" in finding.where for finding in verify(tmp_path))


def test_the_average_is_loaded_as_the_weights_and_frozen_parameters_as_they_are(tmp_path: Path) -> None:
    folder = with_average(tmp_path)
    trained, loaded = load_weights(folder, 120), load_weights(folder, "latest", "average")
    assert (loaded.step, loaded.checkpoint.state.optimizer_state) == (120, {})
    assert stub.same(trained.checkpoint, load(folder, 120, weights_only=True).checkpoint)
    for name, array in trained.checkpoint.state.weights.items():
        shift = 0 if name == "embedding.weight" else 1
        assert np.array_equal(loaded.checkpoint.state.weights[name], array + np.float32(shift)), name


def test_without_an_average_the_error_names_the_setting(tmp_path: Path) -> None:
    folder = with_average(tmp_path / "mean")
    with pytest.raises(
        CheckpointError, match=r"step-00000110 of .* after step 115 \(optimizer.average.start\)"
    ) as early:
        load_weights(folder, 110, "average")
    assert "(optimizer.average.start). Use --checkpoint latest" in str(early.value)
    plain = stub.folder(tmp_path / "none", [120])
    with pytest.raises(CheckpointError, match=r"no average of its weights: optimizer.average.kind = none\.") as never:
        load_weights(plain, "latest", "average")
    assert "optimizer.average.kind=ema" in str(never.value)
    with pytest.raises(UsageError, match=r"Unknown weights 'ema'\. Use trained or average"):
        load_weights(plain, "latest", "ema")


@pytest.mark.fault("A9", cases=1)
def test_a_damaged_or_missing_average_is_noticed(tmp_path: Path) -> None:
    folder = with_average(tmp_path)
    file = folder.checkpoints / "step-00000120" / "average.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)
    with pytest.raises(StorageError, match="damaged: its sha256 differs"):
        load_weights(folder, 120, "average")
    assert [finding.where for finding in verify(tmp_path) if "step-" in finding.where] == ["step-00000120"]
    file.unlink()
    with pytest.raises(CheckpointError, match=r"average.safetensors: missing\."):
        load(folder, 120)


@pytest.mark.parametrize(("count", "named"), [(0, "an average of 0 weights"), (7, "no average of 7 weights")])
def test_an_average_that_does_not_fit_its_count_is_not_saved(count: int, named: str, tmp_path: Path) -> None:
    wrong = averaged(120, count)
    if count:
        wrong = dataclasses.replace(wrong, state=dataclasses.replace(wrong.state, average={}))
    with pytest.raises(CheckpointError, match=named):
        save(stub.folder(tmp_path, run=FROZEN), 120, wrong)


def test_an_explicit_step_is_never_replaced_by_another(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100, 120])
    with pytest.raises(CheckpointError) as caught:
        load(folder, 110)
    assert str(caught.value) == (
        f"{tmp_path} has no step-00000110. Other checkpoints of this run: step-00000100, step-00000120."
    )
    (folder.checkpoints / "step-00000120" / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"state.json: size 2 != \d+ in manifest. Other .*: step-00000100\.$"):
        load(folder, 120)


def test_a_damaged_latest_checkpoint_falls_back_with_a_warning(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100, 120])
    model = folder.checkpoints / "step-00000120" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:812])
    loaded = load(folder, "latest")
    assert loaded.step == 100
    size = len((folder.checkpoints / "step-00000100" / "model.safetensors").read_bytes())
    assert loaded.warnings == [
        f"ignoring damaged step-00000120 (step-00000120/model.safetensors: size 812 != {size} in manifest); "
        "resuming from step-00000100"
    ]


def test_an_incomplete_latest_checkpoint_falls_back_with_a_warning(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100, 120])
    (folder.checkpoints / "step-00000120" / "manifest.json").unlink()
    assert load(folder, "latest").warnings == [
        "ignoring incomplete step-00000120 (no manifest); resuming from step-00000100"
    ]


def test_an_incomplete_file_of_a_killed_save_is_a_warning(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    (folder.checkpoints / ".step-00000120.partial-0123456789ab").mkdir()
    (folder.checkpoints / ".step-00000090.partial-0123456789ab").mkdir()
    assert load(folder, "latest").warnings == [
        "ignoring incomplete step-00000120 (no manifest); resuming from step-00000100"
    ]


def test_an_error_without_a_valid_checkpoint_lists_the_incomplete_ones(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"run has no valid checkpoint\. Train it: fabella resume"):
        load(folder, "latest")
    save(folder, 10, stub.checkpoint(10))
    (folder.checkpoints / "step-00000010" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"valid checkpoint: ignoring incomplete step-00000010 \(no manifest\)\."):
        load(folder, "latest")


def test_best_is_the_checkpoint_that_was_recorded(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    set_best(folder, 100)
    save(folder, 110, stub.checkpoint(110))
    assert load(folder, "best").step == 100


def test_without_a_best_checkpoint_the_latest_is_loaded_with_a_warning(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100, 110])
    assert load(folder, "best").warnings == ["no best checkpoint is recorded; using step-00000110"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100, 120])
    replacement = Checkpoint(stub.checkpoint(7).state, {"step": 120})
    save(folder, 120, replacement)
    assert stub.same(load(folder, 120).checkpoint, replacement)
    assert folder.steps() == [100, 120]


def test_an_invalid_checkpoint_is_not_saved(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [100])
    checkpoint = stub.checkpoint(110)
    without_embedding = dict(list(checkpoint.state.weights.items())[1:])
    with pytest.raises(CheckpointError, match=r"step-00000110/model.safetensors does not match the model: embedding"):
        save(
            folder,
            110,
            Checkpoint(dataclasses.replace(checkpoint.state, weights=without_embedding), checkpoint.progress),
        )
    with pytest.raises(CheckpointError, match=r"step-00000110: best_loss = inf is not a finite number; not saved"):
        save(folder, 110, Checkpoint(checkpoint.state, {"best_loss": math.inf}))
    assert folder.steps() == [100]


def test_pruning_keeps_the_latest_the_best_and_the_loaded_checkpoints(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, run=stub.keeping(10))
    for step in range(10, 90, 10):
        save(folder, step, stub.checkpoint(step))
    set_best(folder, 20)
    load(folder, 30)
    assert prune(folder, 2) == [60, 50, 40, 10]
    assert folder.steps() == [20, 30, 70, 80]


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [10, 20])
    (folder.checkpoints / "step-00000020" / "manifest.json").unlink()
    save(folder, 30, stub.checkpoint(30))
    assert folder.steps() == [10, 20, 30]
    save(folder, 40, stub.checkpoint(40))
    assert folder.steps() == [30, 40]


def test_nothing_later_than_latest_is_pruned(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, run=stub.keeping(10))
    for step in (10, 20, 30, 100):
        save(folder, step, stub.checkpoint(step))
    folder.set_pointer("latest", 30)
    assert prune(folder, 1) == [20, 10]
    (folder.path / "latest").write_text("nonsense")
    assert prune(folder, 1) == []
    assert folder.steps() == [30, 100]


def test_the_latest_valid_step_has_a_manifest_and_the_listed_sizes(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path)
    assert latest_valid_step(folder) is None
    save(folder, 10, stub.checkpoint(10))
    save(folder, 20, stub.checkpoint(20))
    assert latest_valid_step(folder) == 20
    (folder.checkpoints / "step-00000020" / "model.safetensors").write_bytes(b"")
    assert latest_valid_step(folder) == 10


@pytest.mark.fault("A7", cases=1)
def test_too_little_disk_space_is_an_error_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stub.folder(tmp_path)
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3_000_000))
    require_space(folder.path, 3_000_000)
    with pytest.raises(DiskFullError) as caught:
        require_space(folder.path, 48_000_000)
    assert str(caught.value) == (
        f"disk full: the checkpoints of this run need 48 MB, 3 MB are free at {tmp_path}. "
        "Free some space there, choose another --out, or lower checkpoint.keep_last."
    )


# ---------------------------------------------------------------- returning


@pytest.mark.parametrize(
    ("step", "progress", "left", "pointers"),
    [
        (20, {"best_step": 10}, [0, 10, 20], (20, 10)),  # the best one as of step 20
        (20, {"best_step": 20}, [0, 10, 20], (20, 20)),
        (20, {"best_step": 15}, [0, 10, 20], (20, None)),  # it is gone
        (20, {}, [0, 10, 20], (20, None)),  # not known, and the pointer names a later one
        (40, {}, [0, 10, 20, 30, 40], (40, 30)),  # not known, but the pointer names one that stays
        (0, {}, [0], (0, None)),  # the weights that the run began with
    ],
)
def test_returning_to_a_checkpoint_sets_both_pointers_and_removes_later_ones(
    step: int, progress: dict[str, int], left: list[int], pointers: tuple[int, int | None], tmp_path: Path
) -> None:
    folder = stub.folder(tmp_path, [0, 10, 20, 30, 40, 50], run=stub.keeping(9))
    set_best(folder, 30)
    return_to(folder, step, progress)
    assert folder.steps() == left
    assert (folder.read_pointer("latest"), folder.read_pointer("best")) == pointers


def test_returning_to_the_start_without_a_checkpoint_leaves_none(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [10, 20])
    set_best(folder, 20)
    return_to(folder, 0, {})
    assert (folder.steps(), folder.read_pointer("latest"), folder.read_pointer("best")) == ([], None, None)


@pytest.mark.parametrize(("best_step", "pointer"), [(10, 10), (20, 20), (15, 20)])
def test_the_best_pointer_is_restored_if_its_checkpoint_exists(best_step: int, pointer: int, tmp_path: Path) -> None:
    folder = stub.folder(tmp_path, [10, 20])
    set_best(folder, 20)
    restore_best(folder, {"best_step": best_step})
    restore_best(folder, {})
    assert folder.read_pointer("best") == pointer
