"""Names that lead elsewhere, split lines, command terminals or never end: refused, or shown harmlessly.

Row E8 of the fault matrix.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fabella.errors import CheckpointError, FabellaError, StorageError
from fabella.run_config.files import validate_config
from fabella.runs.checkpoint import Checkpoint, check, load
from fabella.runs.run_dir import RunDir
from fabella.runs.safetensors_io import dump_tensors
from fabella.runs.verify import verify
from fabella.storage import dump_manifest, read_manifest, sha256_of
from tests.runs import stub

NAMES = [
    "/etc/passwd",
    "../../../etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "a\0b",
    "a\nb",
    "a\r\nb",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "x" * 10_000,
    "\u202eevil",
    "\u2028\u2029",
    "C:\\Windows\\x",
    "\\\\host\\share",
    "~/x",
    "-rf",
    "step-00000120/../step-00000100",
    "\U0001f4a5" * 3000,
]
# An error with such a name in it is still read on one screen.
LONGEST_ERROR = 1200


def harmless(words: str) -> None:
    """One line that a terminal shows as it is."""
    assert words.isprintable()
    assert len(words) < LONGEST_ERROR


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return stub.folder(tmp_path_factory.mktemp("original") / "run", [100])


@pytest.fixture
def folder(original: RunDir, tmp_path: Path) -> RunDir:
    (tmp_path / "b").write_text("not yours")
    return stub.copied(original, tmp_path / "run")


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_pointer_with_such_a_name_is_reported_and_not_followed(name: str, folder: RunDir) -> None:
    (folder.path / "latest").write_bytes(name.encode())
    loaded = load(folder, "latest")
    assert loaded.step == 100
    (line,) = loaded.warnings
    assert line.startswith("ignoring latest (latest is not the name of a checkpoint: '")
    harmless(line)
    for finding in verify(folder.path):
        harmless(finding.problem)


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_weight_with_such_a_name_is_refused(name: str, folder: RunDir) -> None:
    place = folder.checkpoints / "step-00000100"
    weights = {**stub.checkpoint(100).state.weights, name: np.zeros(1, np.float32)}
    (place / "model.safetensors").write_bytes(b"".join(bytes(part) for part in dump_tensors(weights)))
    manifest = read_manifest(place)
    entry = {"size": (place / "model.safetensors").stat().st_size, "sha256": sha256_of(place / "model.safetensors")}
    manifest["files"]["model.safetensors"] = entry
    (place / "manifest.json").write_bytes(dump_manifest(manifest))
    with pytest.raises(CheckpointError, match="is not a parameter of this model") as caught:
        load(folder, 100)
    harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_weight_with_such_a_name_is_not_saved(name: str) -> None:
    made = stub.checkpoint(1)
    state = type(made.state)({**made.state.weights, name: np.zeros(1, np.float32)}, made.state.optimizer_state, {})
    with pytest.raises(CheckpointError) as caught:
        check(Checkpoint(state, {}), stub.TABLE, stub.SPEC)
    harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_manifest_that_lists_such_a_file_is_refused(name: str, folder: RunDir) -> None:
    place = folder.checkpoints / "step-00000100"
    manifest = read_manifest(place)
    manifest["files"][name] = {"size": 9, "sha256": sha256_of(folder.path.parent / "b")}
    (place / "manifest.json").write_bytes(dump_manifest(manifest))
    findings = verify(folder.path)
    for finding in findings:
        harmless(finding.problem)
    with pytest.raises(StorageError) as caught:
        load(folder, 100)
    harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_run_with_such_a_name_stays_in_its_directory(name: str, tmp_path: Path) -> None:
    """The name is text for people; no path is made of it."""
    if not name:
        with pytest.raises(FabellaError):
            validate_config({**stub.VALUES, "name": name})
        return
    run = validate_config({**stub.VALUES, "name": name})
    made = stub.folder(tmp_path / "run", [10], run=run)
    assert [item.name for item in tmp_path.iterdir()] == ["run"]
    assert RunDir.open(made.path).run.name == name
    assert load(made, "latest").step == 10


def possible(name: str) -> bool:
    """Whether the system takes this as a file's name."""
    return name not in {"", ".", ".."} and not set("/\0") & set(name) and len(name.encode()) < 250


@pytest.mark.parametrize("name", [name for name in NAMES if possible(name)], ids=ascii)
def test_a_folder_with_such_a_file_name_is_refused_harmlessly(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(StorageError, match="is neither empty nor a run: it contains ") as caught:
        stub.folder(tmp_path / "out")
    harmless(str(caught.value))
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("name", [name for name in NAMES if possible(name)], ids=ascii)
def test_a_run_directory_with_such_a_name_works_and_its_errors_are_harmless(
    name: str, original: RunDir, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(original.path, tmp_path / name))
    assert verify(place)[0].where == "tokenizer"
    (place / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="is not a run directory") as caught:
        RunDir.open(place)
    harmless(str(caught.value))
