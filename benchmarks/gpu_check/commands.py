"""Commands that use the device in ways of their own, the tests marked gpu, and several processes."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import numpy as np
from safetensors.numpy import load_file

from benchmarks.gpu_check.environment_torch import torch_gpus
from benchmarks.gpu_check.sections import ROOT, Case, Settings, SkipCaseError, Values

TAIL = 1500
"""Characters of a log that are kept in the results."""
SMALL = ["tokenizer={kind: bytes}", "model.vocab_size=256", "model.layers=1", "data.source.stories=300"]
GPU_TEST = re.compile(r"\bmark\.gpu\b")
PYTEST_CODES = (0, 1)
"""All tests passed, or some failed; with another code no test ran."""
RANK_STEPS = 6
RANK_TOLERANCE = 2e-3
"""Largest relative difference of the weights from those of one process: sums in another order, after a few steps."""


def child_environment() -> Mapping[str, str]:
    """Return the environment of a child process that imports this repository, whatever its directory is."""
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def start(command: list[str], directory: str | Path, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a command of Fabella in ``directory``; its output goes to ``log``."""
    words = [sys.executable, "-P", "-m", "fabella", *command]
    return subprocess.Popen(words, cwd=directory, env=child_environment(), stdout=log, stderr=subprocess.STDOUT)


def run(settings: Settings, name: str, command: list[str]) -> Values:
    """Run a command to its end; passes if its exit code is 0. The section's own limit applies."""
    path = Path(settings.directory) / f"{name}.log"
    with path.open("wb") as log, start(command, settings.directory, log) as process:
        code = process.wait()
    return {"passed": code == 0, "exit_code": code, "command": f"fabella {' '.join(command)}", "output": tail(path)}


def tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-TAIL:]


def commands(settings: Settings) -> Iterator[Case]:
    """Yield commands as a user types them."""
    device = ["--device", settings.device]
    size = ["--max-micro-batch-size", "1" if settings.tiny else "64"]
    timeout = "400" if settings.tiny else "60"
    decoded = ["--decode", "--rounds", "1", "--max-tokens", "20"]
    for name, command in {
        "plan": ["plan", "minigpt-dev", *device, "--measure-timeout", timeout, "--json", *SMALL],
        "plan, device auto": ["plan", "minigpt-dev", "--no-measure", "--json", *SMALL],
        "batch-size": ["batch-size", "minigpt-dev", *device, "--trial-timeout", timeout, *size, *SMALL],
        "generate": ["generate", "Once upon a time", *device, "--max-tokens", "20", "--seed", "1"],
        "bench": ["bench", "storybook-1m", *device, "--no-memory", "--rounds", "1" if settings.tiny else "5"],
        "bench --decode": ["bench", "storybook-1m", *device, *decoded],
    }.items():
        yield name, partial(run, settings, name.replace(" ", "-"), command)


def tests(settings: Settings) -> Iterator[Case]:
    """Yield the tests marked gpu, all at once. Raises SkipCaseError without pytest."""
    if importlib.util.find_spec("pytest") is None:
        raise SkipCaseError("pytest is not installed. Install it with pip install -e '.[test]'.")
    yield "pytest -m gpu", partial(examine_tests, settings)


def examine_tests(settings: Settings) -> Values:
    """Run the test files with such tests; passes if some pass and none fails."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if GPU_TEST.search(path.read_text(encoding="utf-8"))]
    report = Path(settings.directory) / "tests.xml"
    options = ["-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *(str(path.relative_to(ROOT)) for path in sorted(files))]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True)
    output = {"exit_code": done.returncode, "output": (done.stdout + done.stderr)[-TAIL:]}
    if done.returncode not in PYTEST_CODES:
        return {"passed": False, **output}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, "pytest writes a suite into its report"
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    if counts["tests"] == counts["skipped"]:
        raise SkipCaseError(f"All {counts['tests']} tests in {len(files)} files need a GPU, and were skipped.")
    return {"passed": done.returncode == 0, **counts, **output}


def ranks(settings: Settings) -> Iterator[Case]:
    """Yield DDP and FSDP: on two GPUs, or on the CPU where there are fewer, even if there is one.

    Two processes must not take the one GPU by mistake.
    """
    device = "cuda" if settings.on_gpu and torch_gpus() > 1 else "cpu"
    yield f"one process, {device}", partial(train_ranks, settings, device, 1, "ddp")
    for kind in ("ddp", "fsdp"):
        yield f"{kind}, two processes, {device}", partial(examine_ranks, settings, device, kind)


def train_ranks(settings: Settings, device: str, count: int, kind: str) -> Values:
    """Train a small run with ``count`` processes, in the directory ``KIND-COUNT``."""
    small = [*SMALL, "model.layers=2", "training.micro_batch_size=8", "training.precision=float32"]
    gather = ["training.gradient_accumulation=[[0, 2]]", f"training.parallel.kind={kind}", "training.compile=none"]
    place = ["--device", device, "--devices", str(count), "--out", f"{kind}-{count}", "--prepared", "prepared"]
    command = ["train", "minigpt-dev", "--steps", str(RANK_STEPS), *place, *small, *gather]
    return run(settings, f"{kind}-{count}", command)


def examine_ranks(settings: Settings, device: str, kind: str) -> Values:
    """Train with two processes; passes if the weights are those of one process up to rounding."""
    values = train_ranks(settings, device, 2, kind)
    if not values["passed"]:
        return values
    one, two = (last_weights(Path(settings.directory) / name) for name in ("ddp-1", f"{kind}-2"))
    errors = [
        float(np.linalg.norm(two[name] - array) / max(np.linalg.norm(array), 1e-6)) for name, array in one.items()
    ]
    return {**values, "passed": max(errors) <= RANK_TOLERANCE, "weight_error": max(errors)}


def last_weights(directory: Path) -> dict[str, "np.ndarray"]:
    """Return the weights of a run's last checkpoint."""
    return load_file(max((directory / "checkpoints").glob("step-*/model.safetensors")))
