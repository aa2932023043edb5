"""Tests of what `pip install` gives: the source archive, and the wheel built from it, without the repository."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

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
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a virtual environment without Fabella; the packages that Fabella needs are those of the tests."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=300)
    packages = next(environment.glob("lib/python*/site-packages"))
    # The path of an editable installation is not taken over: it is in a .pth file, which is not read from here.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


@pytest.fixture(scope="module")
def installed(environment: Path, wheel: Path) -> Path:
    """Install the wheel, as the first of the three commands of the README does."""
    result = pip_install(environment, str(wheel))
    assert result.returncode == 0, result.stderr
    return environment


def pip_install(environment: Path, *requirements: str) -> subprocess.CompletedProcess[str]:
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python")]
    command = [*pip, "install", "--ignore-installed", "--no-deps", "--no-index", "--quiet", *requirements]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def clean_environment() -> dict[str, str]:
    """Return the environment variables without the path at which Python would find this repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def fabella(installed: Path, reader: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "bin" / "fabella"), *arguments]
    return subprocess.run(command, cwd=reader, env=clean_environment(), capture_output=True, text=True, timeout=300)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in files if "__pycache__" not in name} - names == set()


def test_the_first_commands_of_a_new_user_work(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "bin/python"), "-c", "import fabella; print(fabella.__file__)"]
    where = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True).stdout
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


def test_the_three_commands_of_the_readme_lead_from_a_wheel_to_the_story_page(
    environment: Path, wheel: Path, tmp_path: Path
) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```text\n(.*?)```", readme, re.DOTALL) if "pip install 'fab" in block)
    install, train, serve = (shlex.split(line.partition("  #")[0]) for line in block.strip().splitlines())
    (tmp_path / "my-stories.txt").write_text("\n<|endoftext|>\n".join(STORIES))

    assert install[:2] == ["pip", "install"]
    assert install[2] == f"{wheel.name}[serve]"
    done = pip_install(environment, f"{wheel}[serve]")
    assert done.returncode == 0, done.stderr
    done = fabella(environment, tmp_path, *train[1:], "--steps", "2")
    assert done.returncode == 0, done.stderr
    command = [str(environment / "bin" / "fabella"), *serve[1:], "--port", "0"]
    server = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    try:
        address = address_of(server)
        with urllib.request.urlopen(address, timeout=60) as page:
            assert "<title>" in page.read().decode()
        answer = post(f"{address}/v1/chat/completions", {"messages": [{"role": "user", "content": "Once"}]})
        assert answer["choices"][0]["message"]["role"] == "assistant"
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
        assert server.returncode == 0, errors
    finally:
        server.kill()
        server.wait()


def address_of(server: subprocess.Popen[str]) -> str:
    """Return the address that a server prints before it accepts requests."""
    assert server.stderr
    printed = ""
    for line in server.stderr:
        printed += line
        if address := re.search(r"http://127\.0\.0\.1:\d+", line):
            return address[0]
    raise AssertionError(printed)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.loads(response.read())
