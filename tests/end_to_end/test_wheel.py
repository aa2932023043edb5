"""Tests of what `pip install` gives: the source archive, and the wheel built from it, without the repository."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.source_tree import PACKAGE, REPOSITORY

pytest.importorskip("build", reason="needs build: make test installs it")
pytestmark = pytest.mark.slow

STORIES = [
    f"Once upon a time, fox number {number} lived near the pond. One day she found a ball." for number in range(200)
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive from what an archive of the repository has, and the wheel from the source archive."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "src" / "fabella", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a directory of its own; its dependencies are those of the tests."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    result = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return target


def fabella(installed: Path, reader: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "fabella", *arguments]
    return subprocess.run(command, cwd=reader, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in files if "__pycache__" not in name} - names == set()


def test_the_first_commands_of_a_new_user_work(installed: Path, tmp_path: Path) -> None:
    code = "import fabella; print(fabella.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-c", code]
    where = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert Path(where.strip()).is_relative_to(installed)

    written = fabella(installed, tmp_path, "generate", "Once upon a time", "--max-tokens", "12", "--seed", "1")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("Once upon a time")

    (tmp_path / "my-stories.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    trained = fabella(installed, tmp_path, "train", "my-stories.txt", "--steps", "2")
    assert trained.returncode == 0, trained.stderr
    chat = ("--chat-template", "chatml", "--steps", "2", "--out", "runs/chat")
    rows = [json.dumps({"prompt": f"What is {number}?", "response": story}) for number, story in enumerate(STORIES)]
    (tmp_path / "chat.jsonl").write_text("\n".join(rows))
    answered = fabella(installed, tmp_path, "train", "chat.jsonl", *chat)
    assert answered.returncode == 0, answered.stderr
    exported = fabella(installed, tmp_path, "export", "runs/my-stories", "--to", "html", "--out", "story.html")
    assert exported.returncode == 0, exported.stderr
