"""Run one case of fingerprints.py on one tree, and read the fingerprints of its results."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fingerprint_cases import (
    ENVIRONMENT,
    EVALUATE,
    GENERATED,
    KILLED_AFTER,
    NEW_STATE,
    PROMPTS,
    SEEDS,
    STEPS,
    Case,
    former_command,
    former_config,
    former_parameter,
    former_result,
)
from safetensors.numpy import load_file

Items = dict[str, str]
"""The items of a fingerprint: name → value."""
Parts = dict[str, Items]
"""The fingerprints of one case: weights, moments, state, metrics, …"""

# ---------------------------------------------------------------- running one case

# Several commands in one process: loading an engine takes longer than generating a few texts.
SEVERAL = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = ["fabella", *words]
    try:
        runpy.run_module("fabella", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
"""


class FailedError(Exception):
    """A command failed, or ended too early."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout, and whether its settings have the former names."""

    path: Path
    former: bool

    def command(self, words: Sequence[str]) -> list[str]:
        """Return a command line with the names of this tree."""
        return former_command(words) if self.former else list(words)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config with the names of this tree."""
        return former_config(config) if self.former else dict(config)

    def environment(self, case: Case | None = None) -> dict[str, str]:
        return {**os.environ, **ENVIRONMENT, **(case.variables if case else {}), "PYTHONPATH": str(self.path / "src")}

    def check(self) -> None:
        """Raise SystemExit unless Python imports fabella from this tree."""
        command = [sys.executable, "-c", "import fabella; print(fabella.__file__)"]
        process = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, cwd=tempfile.gettempdir()
        )
        if not process.stdout.startswith(str(self.path / "src")):
            raise SystemExit(f"fabella is not imported from {self.path}: {process.stdout}{process.stderr}")


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs the commands of one case on one tree, in their own folder."""

    tree: Tree
    case: Case
    folder: Path

    def parts(self) -> Parts:
        """Run all commands and return the fingerprints. Raises FailedError if a command fails."""
        case, run = self.case, self.folder / "run"
        self.folder.mkdir(parents=True)
        (self.folder / "stories.txt").write_text(own_stories(), encoding="utf-8")
        config = yaml.safe_dump(self.tree.config(case.config), sort_keys=False)
        (self.folder / "config.yaml").write_text(config, encoding="utf-8")
        shared = [*([] if case.config["engine"] == "jax" else ["--device", "cpu"]), "--devices", str(case.devices)]
        train = ["train", "config.yaml", "--out", "run", *shared]
        if case.killed:
            self.kill(train)
            self.run(["-m", "fabella", *self.tree.command(["resume", "run", *shared])])
        else:
            self.run(["-m", "fabella", *self.tree.command(train)])
        fingerprints = run_fingerprints(run)
        if case.texts:
            fingerprints |= self.texts()
        if case.evaluated:
            output = self.run(["-m", "fabella", *self.tree.command(["evaluate", "run", *EVALUATE])])
            fingerprints["evaluation"] = evaluation_fingerprint(next(json_values(output)))
        return fingerprints

    def texts(self) -> Parts:
        """Return the text of each prompt and seed: in float32, in int8, and by the JAX engine."""
        common = ["generate", "run", *PROMPTS, "--temperature", "0.8", "--max-tokens", "48", "--json"]
        commands = [[*common, "--seed", str(seed), *how] for how in GENERATED.values() for seed in SEEDS]
        output = self.run(["-c", SEVERAL, json.dumps([self.tree.command(each) for each in commands])])
        results = list(json_values(output))
        if len(results) != len(commands):
            raise FailedError(f"{len(commands)} texts were requested, but {len(results)} generated: {output[-500:]}")
        fingerprints: Parts = {f"text {name}": {} for name in GENERATED}
        for number, result in enumerate(results):
            name, seed = list(GENERATED)[number // len(SEEDS)], SEEDS[number % len(SEEDS)]
            texts = list(find_values(result, "text"))
            if len(texts) != len(PROMPTS):
                raise FailedError(f"{len(PROMPTS)} prompts, but {len(texts)} texts: {str(result)[:500]}")
            fingerprints[f"text {name}"] |= {
                f"seed {seed}, {p!r}": text for p, text in zip(PROMPTS, texts, strict=True)
            }
        return fingerprints

    def run(self, arguments: Sequence[str]) -> str:
        """Run Python with ``arguments`` and return its standard output. Raises FailedError if it fails."""
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.tree.environment(self.case),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if process.returncode:
            shown = " ".join(arguments)[:200]
            raise FailedError(f"{shown} exited with code {process.returncode}: {process.stderr.strip()[-800:]}")
        return process.stdout

    def kill(self, train: Sequence[str]) -> None:
        """Kill all processes of a training after its first checkpoint; try again if it finished before."""
        run = self.folder / "run"
        first, last = (run / "checkpoints" / f"step-{step:08d}" for step in (KILLED_AFTER, STEPS))
        for _ in range(4):
            shutil.rmtree(run, ignore_errors=True)
            with (self.folder / "killed.txt").open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "fabella", *self.tree.command(train)],
                    cwd=self.folder,
                    env=self.tree.environment(self.case),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                while process.poll() is None and not first.exists():
                    time.sleep(0.001)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.returncode == -signal.SIGKILL and not last.exists():
                return
            if process.returncode not in {0, -signal.SIGKILL}:
                break
        output = (self.folder / "killed.txt").read_text(errors="replace")
        raise FailedError(
            f"training was not killed in the middle, but ended with {process.returncode}: {output[-800:]}"
        )


def own_stories() -> str:
    """Return the text file of the mixture, with one document per line."""
    names, places = ("Ann", "Ben", "Cleo", "Dan"), ("garden", "forest", "market", "harbour", "school")
    return "".join(
        f"{names[n % 4]} walked to the {places[n % 5]} and found {n} stones. Then it was time for supper.\n"
        for n in range(120)
    )


# ---------------------------------------------------------------- reading results


def run_fingerprints(run: Path) -> Parts:
    """Return the fingerprints of a finished run."""
    last = run / "checkpoints" / f"step-{STEPS:08d}"
    state = former_result(json.loads((last / "state.json").read_text(encoding="utf-8")))
    return {
        "weights": tensor_fingerprint(last / "model.safetensors"),
        "moments": tensor_fingerprint(last / "optimizer.safetensors"),
        "state": {
            key: json.dumps(value)
            for key, value in (state["numbers"] | state["progress"]).items()
            if key not in NEW_STATE
        },
        "metrics": metrics_fingerprint(run / "metrics.jsonl"),
        "samples": {str(n): row["text"] for n, row in enumerate(read_rows(run / "samples.jsonl"))},
    }


def tensor_fingerprint(path: Path) -> Items:
    """Return dtype, shape and SHA-256 of each tensor."""
    return {
        former_parameter(name): f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
        for name, array in load_file(path).items()
    }


METRICS = {"tokens", "loss", "gradient_norm", "lr", "bits_per_byte", "perplexity"}
"""Metrics that are compared. All others are times, or depend on the machine."""


def metrics_fingerprint(path: Path) -> Items:
    """Return losses, learning rates and norms of every row."""
    return {
        f"{row['kind']} {row['step']} {key}": json.dumps(row[key])
        for row in read_rows(path)
        for key in sorted(METRICS & set(row))
    }


def evaluation_fingerprint(result: Mapping[str, Any]) -> Items:
    """Return how often each number occurs in an evaluation under any name, without times and settings.

    The baseline scores each document from its first token. Of several scoring rules, only this one (the first) counts.
    """
    measured = {key: value for key, value in result.items() if key not in {"seconds", "settings", "format", "remarks"}}
    if isinstance(measured["scores"], list):
        measured["scores"] = measured["scores"][0]
    numbers = [json.dumps(value) for value in leaves(measured) if isinstance(value, int | float)]
    return {number: str(times) for number, times in sorted(Counter(numbers).items())}


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [former_result(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def leaves(value: Any) -> Iterator[Any]:
    """Yield every value, at any depth, that is not a mapping or list."""
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


def find_values(value: Any, key: str) -> Iterator[Any]:
    """Yield the values of ``key`` at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from find_values(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from [each] if name == key else find_values(each, key)


def json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values of a text in sequence."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield former_result(value)
        text = text[end:].lstrip()
