"""Tests that a truncated, bit-flipped or edited checkpoint is reported and never loaded.

Rows A8, A9 and A10 of the fault matrix.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fabella.errors import CheckpointError
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.runs.safetensors_io import dump_tensors, load_tensors
from fabella.storage import dump_manifest, sha256_of
from tests.runs import stub

PARTS = 64
FLIPS = 500
FILES = ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
FIRST, SECOND, *_ = stub.TABLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Save steps 100 and 120. Each test restores step 120."""
    return stub.folder(tmp_path_factory.mktemp("run"), [100, 120])


def expect_refused(folder: RunDir, problem: str) -> None:
    """Check that step 120 is refused by name, and that "latest" falls back to step 100 with a warning."""
    with pytest.raises(CheckpointError, match=problem):
        load(folder, 120)
    loaded = load(folder, "latest")
    assert stub.same(loaded.checkpoint, stub.checkpoint(100))
    assert loaded.warnings[0].startswith("ignoring damaged step-00000120 (step-00000120/")
    assert loaded.warnings[0].endswith("; resuming from step-00000100")


@pytest.mark.fault("A8", cases=PARTS + 1)
def test_a_truncated_file_is_reported_with_both_sizes(folder: RunDir) -> None:
    path = folder.checkpoints / "step-00000120" / "model.safetensors"
    original = path.read_bytes()
    for size in [len(original) * part // PARTS for part in range(PARTS)] + [len(original) - 1]:
        path.write_bytes(original[:size])
        expect_refused(folder, rf"^step-00000120/model.safetensors: size {size} != {len(original)} in manifest\.")
    path.write_bytes(original)
    assert load(folder, "latest").step == 120


@pytest.mark.parametrize("name", FILES)
def test_each_file_can_be_truncated_or_missing(name: str, folder: RunDir) -> None:
    path = folder.checkpoints / "step-00000120" / name
    original = path.read_bytes()
    path.write_bytes(original[:-1])
    expect_refused(folder, f"^step-00000120/{name}: ")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"^step-00000120/{name}: (missing|no manifest)"):
        load(folder, 120)
    path.write_bytes(original)


@pytest.mark.fault("A9", cases=FLIPS)
def test_a_flipped_bit_is_found_anywhere(folder: RunDir) -> None:
    generator = random.Random(9)
    checkpoint_dir = folder.checkpoints / "step-00000120"
    original = {name: (checkpoint_dir / name).read_bytes() for name in FILES}
    for number in range(FLIPS):
        name = FILES[number % len(FILES)]
        flipped = bytearray(original[name])
        flipped[generator.randrange(len(flipped))] ^= 1 << generator.randrange(8)
        (checkpoint_dir / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match=f"^step-00000120/{name}: damaged"):
            load(folder, 120)
        (checkpoint_dir / name).write_bytes(original[name])
    assert stub.same(load(folder, 120).checkpoint, stub.checkpoint(120))


# ---------------------------------------------------------------- edited, with a manifest that matches

Tensors = dict[str, NDArray[Any]]


def edit(file: str, change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    def apply(checkpoint_dir: Path) -> None:
        tensors = load_tensors((checkpoint_dir / file).read_bytes(), where=file)
        change(tensors)
        (checkpoint_dir / file).write_bytes(b"".join(bytes(part) for part in dump_tensors(tensors)))

    return apply


def model(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return edit("model.safetensors", change)


def optimizer(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return edit("optimizer.safetensors", change)


def state(**changes: Any) -> Callable[[Path], None]:
    def apply(checkpoint_dir: Path) -> None:
        values = {**json.loads((checkpoint_dir / "state.json").read_bytes()), **changes}
        (checkpoint_dir / "state.json").write_text(json.dumps(values))

    return apply


def write_list_as_state(checkpoint_dir: Path) -> None:
    (checkpoint_dir / "state.json").write_text("[]")


def rename(tensors: Tensors, old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (model(lambda t: t.pop(FIRST)), f"model.safetensors does not match the model: {FIRST} is missing"),
    "two missing": (model(lambda t: (t.pop(FIRST), t.pop(SECOND))), f"{FIRST} is missing; {SECOND} is missing"),
    "all missing": (model(lambda t: t.clear()), r"is missing(; .* is missing){4}; and \d+ more"),
    "extra": (model(lambda t: t.update(extra=np.zeros(1, np.float32))), "extra is not a parameter of this model"),
    "renamed": (model(lambda t: rename(t, FIRST, "x")), f"{FIRST} is missing; x is not a parameter of this model"),
    "swapped": (model(lambda t: (rename(t, FIRST, "x"), rename(t, SECOND, FIRST))), f"{FIRST} is 2, not 256 x 2"),
    "transposed": (model(lambda t: t.update({FIRST: t[FIRST].T})), f"{FIRST} is 2 x 256, not 256 x 2"),
    "flattened": (model(lambda t: t.update({FIRST: t[FIRST].reshape(-1)})), f"{FIRST} is 512, not 256 x 2"),
    "one row less": (model(lambda t: t.update({FIRST: t[FIRST][1:]})), f"{FIRST} is 255 x 2, not 256 x 2"),
    "half precision": (model(lambda t: t.update({FIRST: t[FIRST].astype(np.float16)})), "is float16, not float32"),
    "double precision": (model(lambda t: t.update({FIRST: t[FIRST].astype(np.float64)})), "is float64, not float32"),
    "integers": (model(lambda t: t.update({FIRST: t[FIRST].astype(np.int32)})), "is int32, not float32"),
    "no optimizer": (
        lambda checkpoint_dir: (checkpoint_dir / "optimizer.safetensors").unlink(),
        "optimizer.safetensors: missing",
    ),
    "empty optimizer": (optimizer(lambda t: t.clear()), f"optimizer.safetensors does not .*: first.{FIRST} is missing"),
    "one moment missing": (optimizer(lambda t: t.pop(f"second.{FIRST}")), f"second.{FIRST} is missing"),
    "moment of another shape": (
        optimizer(lambda t: t.update({f"first.{FIRST}": t[f"first.{FIRST}"][1:]})),
        f"first.{FIRST} is 255 x 2, not 256 x 2",
    ),
    "moment of nothing": (
        optimizer(lambda t: t.update({"third": np.zeros(1, np.float32)})),
        "third is not a parameter",
    ),
    "another step": (state(step=100), "state.json is of step 100, not 120"),
    "a later format": (state(format=99), "state.json was written in format 99"),
    "not a state": (write_list_as_state, "it has no format number"),
}


def seal(checkpoint_dir: Path) -> None:
    """Write a manifest that matches the edited files."""
    entries = {
        name: {"size": (checkpoint_dir / name).stat().st_size, "sha256": sha256_of(checkpoint_dir / name)}
        for name in FILES[1:]
        if (checkpoint_dir / name).exists()
    }
    (checkpoint_dir / "manifest.json").write_bytes(dump_manifest({"format": 1, "step": 120, "files": entries}))


@pytest.mark.fault("A10", cases=2 * len(MUTATIONS))
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("sealed", [True, False], ids=["with a manifest that agrees", "with the old manifest"])
def test_an_edited_checkpoint_is_refused_by_name(mutation: str, sealed: bool, folder: RunDir, tmp_path: Path) -> None:
    apply, problem = MUTATIONS[mutation]
    edited = stub.copied(folder, tmp_path / "run")
    checkpoint_dir = edited.checkpoints / "step-00000120"
    apply(checkpoint_dir)
    if sealed:
        seal(checkpoint_dir)
        if mutation == "no optimizer":
            problem = "optimizer.safetensors: not listed in the manifest"
        expect_refused(edited, problem)
    else:
        expect_refused(edited, "^step-00000120/(model|optimizer|state)")


def test_there_are_twenty_mutations() -> None:
    assert len(MUTATIONS) == 20
