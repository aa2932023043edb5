"""Tests that a family in a file outside the package trains and resumes, and that its run does not need the file."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.runs.run_dir import RunDir
from fabella.storage import sha256_of

GUIDE = Path(__file__).parents[2] / "docs" / "guide-new-architecture.md"
FASTER = ["training.micro_batch_size=2", "data.source.stories=40", "samples.max_tokens=4", "validation.num_sequences=4"]
TRAIN = ["train", "gla.yaml", "--steps", "4", *FASTER]


def block(language: str) -> str:
    """Return the first block of the guide in ``language``."""
    match = re.search(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert match
    return match[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the guide's files, a run of them, and the cache of the user who trained it."""
    path = tmp_path_factory.mktemp("gla")
    (path / "gla_torch.py").write_text(block("python"), encoding="utf-8")
    (path / "gla.yaml").write_text(block("yaml"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        assert fabella(TRAIN) == 0
    return path


@pytest.fixture
def user(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``trained`` as the current directory."""
    path = tmp_path / "user"
    shutil.copytree(trained, path)
    monkeypatch.chdir(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / "cache"))
    return path


def test_the_family_of_the_guide_passes_every_check(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["check-family", "./gla_torch.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]


def test_the_run_keeps_the_file_with_its_sha256(user: Path) -> None:
    copy = user / "runs" / "gla" / "family" / "gla_torch.py"
    assert copy.read_bytes() == (user / "gla_torch.py").read_bytes()
    assert RunDir.open(user / "runs" / "gla").manifest["family"] == {"gla_torch.py": sha256_of(copy)}
    assert "family: ./family/gla_torch.py\n" in (user / "runs" / "gla" / "config.yaml").read_text()


def test_the_run_is_usable_without_the_original_file(user: Path) -> None:
    (user / "gla_torch.py").unlink()
    assert fabella(["resume", "runs/gla", "--steps", "6"]) == 0
    assert fabella(["generate", "runs/gla", "Once upon a time", "--max-tokens", "4"]) == 0
    assert fabella(["verify", "runs/gla"]) == 0
    assert fabella(["report", "runs/gla"]) == 0
    assert fabella(["evaluate", "runs/gla", "--num-samples", "2", "--max-tokens", "4", "--num-cloze", "0"]) == 0
    assert RunDir.open(user / "runs" / "gla").steps()[-1] == 6
    assert "family: ./family/gla_torch.py\n" in (user / "runs" / "gla" / "config.yaml").read_text()


def test_training_again_with_resume_accepts_the_same_file_only(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "gla.yaml", *FASTER, "--steps", "5", "--resume"]
    assert fabella(command) == 0
    assert RunDir.open(user / "runs" / "gla").steps()[-1] == 5
    with (user / "gla_torch.py").open("a") as file:
        file.write("# changed\n")
    assert fabella(command) == 2
    assert "Cannot resume with other code" in " ".join(capsys.readouterr().err.split())


def test_a_changed_or_foreign_file_in_the_run_is_refused(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = user / "runs" / "gla" / "family"
    source = (directory / "gla_torch.py").read_text()
    (directory / "gla.py").write_text("raise SystemExit('executed')\n")
    assert fabella(["generate", "runs/gla"]) == 4
    assert "gla.py is not a file of the run's family" in capsys.readouterr().err
    (directory / "gla.py").unlink()
    (directory / "gla_torch.py").write_text("raise SystemExit('executed')\n")
    assert fabella(["generate", "runs/gla"]) == 4
    assert fabella(["verify", "runs/gla"]) == 4
    output = capsys.readouterr()
    assert "was changed after the run started" in output.err
    assert "1 damaged part" in output.out
    (directory / "gla_torch.py").unlink()
    assert fabella(["verify", "runs/gla"]) == 4
    assert "is missing" in capsys.readouterr().out
    (user / "elsewhere.py").write_text(source)
    (directory / "gla_torch.py").symlink_to(user / "elsewhere.py")
    assert fabella(["verify", "runs/gla"]) == 4
    assert "not a plain file" in capsys.readouterr().out


def test_a_run_from_a_stranger_executes_no_code_until_its_family_is_trusted(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(user / "cache-of-another-user"))
    (user / "runs" / "gla").rename(user / "received run")
    monkeypatch.setattr("fabella.runs.family_files.family_config", lambda family: pytest.fail("the file was executed"))
    assert fabella(["generate", "received run"]) == 4
    command = "check-family 'received run/family/gla_torch.py' --trust"
    assert f"fabella {command}" in " ".join(capsys.readouterr().err.split())
    assert fabella(["verify", "received run"]) == 4
    assert "received run was not verified: its family is unknown." in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(user)
    monkeypatch.setenv("XDG_CACHE_HOME", str(user / "cache-of-another-user"))
    assert fabella(["check-family", "received run/family/gla_torch.py", "--trust"]) == 0
    assert fabella(["generate", "received run", "--max-tokens", "4"]) == 0
    assert fabella(["verify", "received run"]) == 0


def test_a_family_in_a_file_is_compared_with_one_of_the_package(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--steps",
        "2",
        "--match",
        "total",
        "--size",
        "60000",
        "--tolerance",
        "0.05",
        "--layers",
        "1",
        "--out",
        "both",
        "--json",
    ]
    assert fabella(["compare-architectures", "gla.yaml", *FASTER, "--families", "./gla_torch.py,llama", *options]) == 0
    results = json.loads(capsys.readouterr().out)["compared"]
    assert {(result["family"], result["runs"][0]["run_dir"]) for result in results} == {
        ("gla_torch", "both/gla_torch/seed-1"),
        ("llama", "both/llama/seed-1"),
    }
