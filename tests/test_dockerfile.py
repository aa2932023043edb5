"""Tests of the Dockerfile by the rules of hadolint, and of the files that use it. It is not built."""

import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from fabella.cli import serve, train
from fabella.server.middleware import PUBLIC

REPOSITORY = Path(__file__).parents[1]


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) pairs, with continued lines joined and comments removed."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def violations(text: str) -> list[str]:
    """Return the rule violations of a Dockerfile."""
    steps = instructions(text)
    words = [name for name, _ in steps]
    found = []
    for name, rest in steps:
        found += _violations_of(name, rest)
    if "USER" not in words or dict(steps)["USER"].split(":")[0] in {"root", "0"}:
        found.append("runs as root")
    if words.count("CMD") != 1 or words.count("ENTRYPOINT") > 1:
        found.append("not exactly one CMD")
    if "RUN" in words[words.index("USER") if "USER" in words else len(words) :]:
        found.append("RUN after USER")
    return found


def _violations_of(name: str, rest: str) -> list[str]:
    found = []
    if name == "FROM" and not re.search(r":\d+\.\d+\.\d+[-\w.]*(@sha256:\w+)?( AS \w+)?$", rest):
        found.append(f"base {rest} is not pinned to a full version")
    if name == "ADD":
        found.append("ADD; COPY says what it does")
    if name in {"CMD", "ENTRYPOINT", "VOLUME"} and not rest.startswith("["):
        found.append(f"{name} is not in exec form")
    if name == "WORKDIR" and not rest.startswith("/"):
        found.append("WORKDIR is not absolute")
    if name == "RUN":
        found += _shell_violations(rest)
    return found


def _shell_violations(command: str) -> list[str]:
    found = []
    if re.search(r"\bsudo\b", command):
        found.append("sudo")
    if re.search(r"(^|[;&|]\s*)cd ", command):
        found.append("cd; WORKDIR says where")
    if "apt-get install" in command and not {"--no-install-recommends", "-y"} <= set(command.split()):
        found.append("apt-get install without -y --no-install-recommends")
    if "apt-get" in command and "rm -rf /var/lib/apt/lists/*" not in command:
        found.append("apt lists are left in the layer")
    for install in re.findall(r"pip install[^;&|]*", command):
        if "--no-cache-dir" not in install:
            found.append("pip keeps its cache in the layer")
        if not {"-c", "--no-deps"} & set(install.split()):
            found.append("pip installs what no constraint pins")
    return found


def test_the_dockerfile_breaks_no_rule() -> None:
    assert violations((REPOSITORY / "Dockerfile").read_text()) == []


SOUND = 'FROM python:3.12.1-slim\nRUN true\nUSER someone\nCMD ["fabella"]\n'


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("python:3.12.1-slim", "python:latest", "base python:latest is not pinned to a full version"),
        ("python:3.12.1-slim", "python", "base python is not pinned to a full version"),
        ("USER someone\n", "", "runs as root"),
        ("USER someone", "USER root", "runs as root"),
        ('CMD ["fabella"]', "CMD fabella", "CMD is not in exec form"),
        ("RUN true", "ADD . .", "ADD; COPY says what it does"),
        ("RUN true", "RUN sudo true", "sudo"),
        ("RUN true", "RUN cd src && make", "cd; WORKDIR says where"),
        ("RUN true", "WORKDIR here", "WORKDIR is not absolute"),
        ("RUN true", "RUN apt-get install git", "apt lists are left in the layer"),
        ("RUN true", "RUN apt-get install git", "apt-get install without -y --no-install-recommends"),
        ("RUN true", "RUN pip install -c pins.txt .", "pip keeps its cache in the layer"),
        ("RUN true", "RUN pip install --no-cache-dir .", "pip installs what no constraint pins"),
        ("RUN true\nUSER someone", "USER someone\nRUN true", "RUN after USER"),
    ],
)
def test_each_rule_finds_its_violation(old: str, new: str, complaint: str) -> None:
    assert violations(SOUND) == []
    assert complaint in violations(SOUND.replace(old, new))


def test_it_copies_only_what_exists_and_is_not_ignored() -> None:
    let_through = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in instructions((REPOSITORY / "Dockerfile").read_text()):
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
                assert source in let_through, source


def test_it_starts_with_the_quickstart_and_keeps_data_and_runs() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    steps = dict(instructions(text))
    assert json.loads(steps["ENTRYPOINT"]) + json.loads(steps["CMD"]) == ["fabella", "quickstart"]
    assert json.loads(steps["VOLUME"]) == ["/story/data", "/story/runs"]
    arguments = [rest for name, rest in instructions(text) if name == "ARG"]
    assert arguments == ["COMPUTE=cpu", "EXTRAS=hub,parquet,serve,track,zstd", "COMPILER=g++"]


def test_the_extras_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (chosen,) = re.findall(r"^ARG EXTRAS=(.*)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert set(chosen.split(",")) <= set(extras)


def test_it_exposes_the_port_of_the_server() -> None:
    exposed = dict(instructions((REPOSITORY / "Dockerfile").read_text()))["EXPOSE"]
    parameters = inspect.signature(serve.command).parameters
    assert parameters["port"].default == int(exposed)


def test_compose_trains_and_serves_with_options_that_exist() -> None:
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    serve_options = inspect.signature(serve.command).parameters
    name, run, *options = services["serve"]["command"]
    assert (name, run) == ("serve", services["train"]["command"][3]), "it serves what was trained"
    assert {option.removeprefix("--") for option in options[::2]} <= set(serve_options)
    assert services["serve"]["ports"] == [f"127.0.0.1:{serve_options['port'].default}:{serve_options['port'].default}"]
    assert "/healthz" in PUBLIC
    assert "/healthz" in services["serve"]["healthcheck"]["test"][-1]
    assert "FABELLA_API_KEY" in services["serve"]["environment"], "other addresses than 127.0.0.1 need a key"
    options = [word for word in services["train"]["command"] if word.startswith("--")]
    assert {option.removeprefix("--") for option in options} <= set(inspect.signature(train.command).parameters)


def test_the_development_container_prepares_a_target_of_the_makefile() -> None:
    container = json.loads((REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())
    program, target = container["postCreateCommand"].split()
    assert program == "make"
    assert f"$(VENV)/{target.removeprefix('.venv/')}:" in (REPOSITORY / "Makefile").read_text()
    assert container["forwardPorts"] == [inspect.signature(serve.command).parameters["port"].default]
