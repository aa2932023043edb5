"""Tests that names with path traversal, control characters or great length are refused and printed harmlessly.

Row E8 of the fault matrix.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fabella.errors import CheckpointError, ConfigError, StorageError
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
# An error that contains such a name still fits on one screen.
MAX_ERROR_CHARS = 1200


def assert_harmless(message: str) -> None:
    """Check that the message is one short line without control characters."""
    assert message.isprintable()
    assert len(message) < MAX_ERROR_CHARS


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
    assert_harmless(line)
    for finding in verify(folder.path):
        assert_harmless(finding.problem)


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_weight_with_such_a_name_is_refused(name: str, folder: RunDir) -> None:
    checkpoint_dir = folder.checkpoints / "step-00000100"
    weights = {**stub.checkpoint(100).state.weights, name: np.zeros(1, np.float32)}
    (checkpoint_dir / "model.safetensors").write_bytes(b"".join(bytes(part) for part in dump_tensors(weights)))
    manifest = read_manifest(checkpoint_dir)
    entry = {
        "size": (checkpoint_dir / "model.safetensors").stat().st_size,
        "sha256": sha256_of(checkpoint_dir / "model.safetensors"),
    }
    manifest["files"]["model.safetensors"] = entry
    (checkpoint_dir / "manifest.json").write_bytes(dump_manifest(manifest))
    with pytest.raises(CheckpointError, match="is not a parameter of this model") as caught:
        load(folder, 100)
    assert_harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_weight_with_such_a_name_is_not_saved(name: str) -> None:
    checkpoint = stub.checkpoint(1)
    state = type(checkpoint.state)(
        {**checkpoint.state.weights, name: np.zeros(1, np.float32)}, checkpoint.state.optimizer_state, {}
    )
    with pytest.raises(CheckpointError) as caught:
        check(Checkpoint(state, {}), stub.TABLE, stub.SPEC)
    assert_harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_manifest_that_lists_such_a_file_is_refused(name: str, folder: RunDir) -> None:
    checkpoint_dir = folder.checkpoints / "step-00000100"
    manifest = read_manifest(checkpoint_dir)
    manifest["files"][name] = {"size": 9, "sha256": sha256_of(folder.path.parent / "b")}
    (checkpoint_dir / "manifest.json").write_bytes(dump_manifest(manifest))
    findings = verify(folder.path)
    for finding in findings:
        assert_harmless(finding.problem)
    with pytest.raises(StorageError) as caught:
        load(folder, 100)
    assert_harmless(str(caught.value))


@pytest.mark.fault("E8", cases=len(NAMES))
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_run_with_such_a_name_stays_in_its_directory(name: str, tmp_path: Path) -> None:
    """A name that is not a plain file name is refused."""
    if name != "-rf":
        with pytest.raises(ConfigError, match=r"^name") as caught:
            validate_config({**stub.VALUES, "name": name})
        assert_harmless(str(caught.value))
        return
    run = validate_config({**stub.VALUES, "name": name})
    run_dir = stub.folder(tmp_path / "run", [10], run=run)
    assert [item.name for item in tmp_path.iterdir()] == ["run"]
    assert RunDir.open(run_dir.path).run.name == name
    assert load(run_dir, "latest").step == 10


def is_valid_file_name(name: str) -> bool:
    """Return whether the system accepts the name for a file."""
    return name not in {"", ".", ".."} and not set("/\0") & set(name) and len(name.encode()) < 250


@pytest.mark.parametrize("name", [name for name in NAMES if is_valid_file_name(name)], ids=ascii)
def test_a_folder_with_such_a_file_name_is_refused_harmlessly(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(StorageError, match="is neither empty nor a run: it contains ") as caught:
        stub.folder(tmp_path / "out")
    assert_harmless(str(caught.value))
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("name", [name for name in NAMES if is_valid_file_name(name)], ids=ascii)
def test_a_run_directory_with_such_a_name_works_and_its_errors_are_harmless(
    name: str, original: RunDir, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(original.path, tmp_path / name))
    assert verify(path)[0].where == "tokenizer"
    (path / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="is not a run directory") as caught:
        RunDir.open(path)
    assert_harmless(str(caught.value))
