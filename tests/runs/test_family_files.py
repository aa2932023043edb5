"""Tests that the files of an external family are saved with a run and executed only if they are trusted."""

import hashlib
import shutil
from pathlib import Path

import pytest

from fabella.errors import CheckpointError, ConfigError, UnknownFamilyError
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.family_files import family_digests, trust_family
from fabella.runs.run_dir import RunDir
from fabella.runs.verify import verify
from fabella.storage import sha256_of
from tests.runs import stub

SOURCE = """
from fabella.models import gpt2
from fabella.models.gpt2_torch import Model


class Config(gpt2.Config):
    family: str = ""
"""
SIZES = {"vocab_size": 256, "context_length": 8, "dim": 2, "layers": 1, "heads": 1, "ffn_dim": 2}


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine_torch.py"
    path.write_text(SOURCE)
    return path


def make_run(family: str) -> RunConfig:
    return validate_config({**stub.VALUES, "model": {**SIZES, "family": family}})


def test_a_run_opens_with_its_copy_after_it_was_moved(file: Path, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", make_run(str(file)), stub.MANIFEST)
    assert run_dir.manifest["family"] == {"mine_torch.py": sha256_of(file)}
    file.unlink()
    run_dir.path.rename(tmp_path / "moved")
    assert RunDir.open(tmp_path / "moved").run.model.family == str(tmp_path / "moved" / "family" / "mine_torch.py")


def test_a_dotted_module_is_kept_as_well(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nursery"
    package.mkdir()
    shutil.copy(file, package)
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = RunDir.create(tmp_path / "run", make_run("nursery.mine"), stub.MANIFEST)
    assert run_dir.run.model.family == str(tmp_path / "run" / "family" / "mine_torch.py")


def test_a_family_that_needs_other_local_files_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("")
    file.write_text(f"from . import helpers\n{SOURCE}")
    run = make_run(str(file))
    with pytest.raises(ConfigError, match=r"Cannot load model\.family"):
        RunDir.create(tmp_path / "run", run, stub.MANIFEST)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_untrusted_family_is_not_executed(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = RunDir.create(tmp_path / "run", make_run(str(file)), stub.MANIFEST)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UnknownFamilyError, match=r"does not trust yet.*fabella check-family .*mine_torch\.py --trust"):
        RunDir.open(run_dir.path)
    assert [finding.level for finding in verify(run_dir.path)] == ["unknown"]
    trust_family(str(run_dir.path / "family" / "mine_torch.py"))
    assert RunDir.open(run_dir.path) == run_dir


def test_no_bytecode_is_written_and_other_files_next_to_the_copy_are_refused(file: Path, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", make_run(str(file)), stub.MANIFEST)
    assert sorted(path.name for path in (run_dir.path / "family").iterdir()) == ["manifest.json", "mine_torch.py"]
    (run_dir.path / "family" / "mine_torch.abi3.so").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not a file of the run's family"):
        RunDir.open(run_dir.path)


@pytest.mark.parametrize(
    "family", ["nursery.mine", "/elsewhere/mine_torch.py", "./family/../mine_torch.py", "../mine_torch.py"]
)
def test_a_run_names_no_code_outside_its_directory(file: Path, tmp_path: Path, family: str) -> None:
    run_dir = RunDir.create(tmp_path / "run", make_run(str(file)), stub.MANIFEST)
    text = (run_dir.path / "config.yaml").read_text().rpartition("# sha256")[0]
    text = text.replace("./family/mine_torch.py", family)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (run_dir.path / "config.yaml").write_text(f"{text}# sha256 of the lines above: {digest}\n")
    with pytest.raises(CheckpointError, match="is not a file kept with the run"):
        RunDir.open(run_dir.path)


def test_only_the_same_files_are_the_family_of_a_run(file: Path, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", make_run(str(file)), stub.MANIFEST)
    assert run_dir.with_kept_family(make_run(str(file))) == run_dir.run
    assert family_digests("llama") == {}
    file.write_text(f"{SOURCE}\n# changed\n")
    with pytest.raises(ConfigError, match="Cannot resume with other code"):
        run_dir.with_kept_family(make_run(str(file)))
