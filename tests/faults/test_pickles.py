"""Tests that Fabella never unpickles a file, at any path and with any name.

Rows E1 and E2 of the fault matrix.
"""

import hashlib
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import fabella
from fabella.cli.main import run as command_line
from fabella.errors import CheckpointError, FabellaError
from fabella.runs.checkpoint import load
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir
from fabella.runs.verify import verify
from fabella.storage import dump_manifest, sha256_of
from tests.faults.injection import run_in_child
from tests.faults.malicious_payloads import malicious_files
from tests.runs import release

SOURCES = sorted(Path(fabella.__file__).parent.rglob("*.py"))
STEP = Path("checkpoints") / "step-00000010"
# These do not start like a pickle: the error does not mention pickle.
UNRECOGNIZED = ("in tar", "in headed")

CANARY = Path("canary")
NAMES = sorted(malicious_files(CANARY))
SOME_NAMES = NAMES[::4]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "run"
    release.make(path)
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code from a file was run"


def seal(folder: Path) -> None:
    """Write a manifest that matches the files."""
    files = [folder for folder in folder.iterdir() if folder.name != "manifest.json"]
    entries = {folder.name: {"size": folder.stat().st_size, "sha256": sha256_of(folder)} for folder in files}
    (folder / "manifest.json").write_bytes(dump_manifest({"format": 1, "step": 10, "files": entries}))


def read_all(run: Path) -> list[str]:
    """Read a run in every way, and return all error messages."""
    messages: list[str] = []
    actions: list[Callable[[], object]] = [
        lambda: load(RunDir.open(run), "latest"),
        lambda: load(RunDir.open(run), "best"),
        lambda: load(RunDir.open(run), 10, weights_only=True),
        lambda: load(RunDir.open(run), 10),
        lambda: read_rows(run / "metrics.jsonl"),
    ]
    for action in actions:
        try:
            action()
        except FabellaError as error:
            messages.append(str(error))
    return [*messages, *(finding.problem for finding in verify(run))]


def test_the_malicious_files_work(tmp_path: Path) -> None:
    """Otherwise no test below could fail."""
    for number, (name, data) in enumerate(malicious_files(tmp_path / "0").items()):
        path = tmp_path / str(number)
        data = malicious_files(path)[name]
        if data.startswith(b"\x93NUMPY"):
            assert run_in_child(lambda: np.load(io.BytesIO(data), allow_pickle=True)) == 0  # noqa: B023 - run at once
            assert path.exists(), name
        elif " in " not in name:
            assert run_in_child(lambda: pickle.loads(data)) == 0  # noqa: B023 - run at once
            assert path.exists(), name
    assert len(NAMES) >= 30


@pytest.mark.fault("E1", cases=2 * len(NAMES))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_pickle_in_place_of_weights_is_refused(
    file: str, name: str, canary: Path, released: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(released, tmp_path / "run")
    (run / STEP / file).write_bytes(malicious_files(canary)[name])
    seal(run / STEP)
    problem = (
        " is not a valid safetensors file"
        if name.endswith(UNRECOGNIZED)
        else ": refusing pickle, which can execute code"
    )
    with pytest.raises(CheckpointError, match=f"step-00000010/{file}{problem}"):
        load(RunDir.open(run), 10)
    assert any(problem in message for message in read_all(run))


@pytest.mark.fault("E1", cases=5 * len(NAMES))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["pt", "bin", "ckpt", "npy", "safetensors"])
def test_a_pickle_given_as_a_run_is_refused(name: str, suffix: str, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(malicious_files(canary)[name])
    problem = "is a file, not a run directory" if name.endswith(UNRECOGNIZED) else "refusing pickle"
    with pytest.raises(CheckpointError, match=rf"model\.{suffix}:? {problem}"):
        RunDir.open(path)
    assert problem in verify(path)[0].problem


ELSEWHERE = [
    STEP / "state.json",
    STEP / "manifest.json",
    Path("manifest.json"),
    Path("config.yaml"),
    Path("latest"),
    Path("metrics.jsonl"),
    Path("tokenizer") / "fabella.json",
    Path("tokenizer") / "tokenizer.json",
]


@pytest.mark.fault("E1", cases=len(ELSEWHERE) * len(SOME_NAMES))
@pytest.mark.parametrize("place", ELSEWHERE, ids=str)
def test_a_pickle_anywhere_else_is_reported_as_damage(
    place: Path, canary: Path, released: Path, quick_path: Path
) -> None:
    for name in SOME_NAMES:
        data = malicious_files(canary)[name]
        run = shutil.copytree(released, quick_path / name)
        (run / place).write_bytes(data)
        if place.name == "state.json":
            seal(run / STEP)
        messages = read_all(run)
        assert messages or place.name == "tokenizer.json"  # a byte tokenizer does not read it
        assert all(message.isprintable() for message in messages)


YAML_TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:subprocess.getoutput ['touch {canary}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "model: !!python/object/apply:builtins.exec [\"open('{canary}', 'w')\"]",
]


@pytest.mark.fault("E1", cases=len(YAML_TAGS))
@pytest.mark.parametrize("tag", YAML_TAGS)
def test_a_config_that_asks_for_python_objects_is_refused(
    tag: str, canary: Path, released: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(released, tmp_path / "run")
    text = tag.replace("{canary}", str(canary)).encode() + b"\n"
    (run / "config.yaml").write_bytes(
        text + f"# sha256 of the lines above: {hashlib.sha256(text).hexdigest()}\n".encode()
    )
    with pytest.raises(CheckpointError, match=r"config.yaml is not the config of a run"):
        RunDir.open(run)


COMMANDS = [
    ["verify", "{file}"],
    ["resume", "{file}"],
    ["generate", "{file}", "Once"],
    ["perplexity", "{file}", "Once upon a time"],
    ["generate", "{run}", "Once"],
]


@pytest.mark.fault("E1", cases=4 * len(COMMANDS))
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", ["exec, protocol 0", "system, protocol 4", "exec in zip", "system in npy"])
def test_no_command_reads_a_pickle(
    words: list[str], name: str, canary: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(released, tmp_path / "run")
    for step in ("step-00000005", "step-00000010"):
        (run / "checkpoints" / step / "model.safetensors").write_bytes(malicious_files(canary)[name])
        seal(run / "checkpoints" / step)
    (tmp_path / "model.pt").write_bytes(malicious_files(canary)[name])
    command = [word.format(file=tmp_path / "model.pt", run=run) for word in words]
    assert command_line(command) in {3, 4}
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err


EXCEPTIONS = {"trust_remote": {"hf_torch.py", "model_card.py"}}
"""Text → files that may have it. ``hf_torch.py`` runs a modelling file only if it equals, byte for byte, the one that
Fabella would write (tests/interop/formats/test_hf.py); ``model_card.py`` names the option in a text for people."""


@pytest.mark.fault("E2", cases=6)
@pytest.mark.parametrize(
    "words", ["weights_only=False", "allow_pickle=True", "pickle.load", "import pickle", "torch.load(", "trust_remote"]
)
def test_no_line_of_fabella_can_unpickle(words: str) -> None:
    files = {path.name for path in SOURCES if words in path.read_text(encoding="utf-8")}
    assert files == EXCEPTIONS.get(words, set())
