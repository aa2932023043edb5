"""Compare the results of the present checkout with those of an earlier commit, bit for bit, on one machine.

A change that must not alter behaviour (new names, moved modules) is checked with this: small runs of every family on
both engines, a streamed mixture, two processes, and runs killed in the middle and resumed. Compared are weights and
optimizer moments, state.json, metrics and samples of each run, generated text, and the numbers of an evaluation.

    python benchmarks/fingerprints.py
    python benchmarks/fingerprints.py --only llama --cache FOLDER
    python benchmarks/fingerprints.py --baseline HEAD~3 --output fingerprints.json

Both trees are driven through the command line alone. Cases are written in the present names of settings and options;
the tables below translate them for a tree that has the former ones.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "1c109f2"
STEPS, KILLED_AFTER = 30, 10
CACHE_FORMAT = 1
"""Raise it when a fingerprint is read differently, so that cached ones are computed again"""

Items = dict[str, str]
"""One fingerprint in full: what is compared → its value"""
Parts = dict[str, Items]
"""The fingerprints of one case: weights, moments, state, metrics, …"""

# ---------------------------------------------------------------- names before and after the redesign

# Dotted key of a setting → its former name. Keys above it are in the present names.
FORMER_KEYS = {
    "model.vocab_size": "vocabulary",
    "model.context_length": "context",
    "model.ffn_dim": "hidden",
    "model.tie_embeddings": "tied",
    "model.layer_pattern": "pattern",
    "tokenizer.vocab_size": "vocabulary",
    "tokenizer.eos_token": "end",
    "data.sequences": "windows",
    "data.mode": "reading",
    "data.mode.document_shuffle_buffer": "row_buffer",
    "data.mode.sequence_shuffle_buffer": "sequence_buffer",
    "data.mode.prefetch_batches": "ahead",
    "data.mode.timeout_seconds": "patience_seconds",
    "data.mode.tokenizer_sample_bytes": "head_bytes",
    "optimizer.max_grad_norm": "clip",
    "training.length.max_steps": "steps",
    "training.micro_batch_size": "micro_batch",
    "training.gradient_accumulation": "accumulation",
    "training.gradient_checkpointing": "recompute",
    "training.log_every_steps": "log_every",
    "validation.every_steps": "every",
    "validation.num_sequences": "windows",
    "validation.early_stopping_patience": "patience",
    "checkpoint.every_steps": "every",
    "checkpoint.keep_last": "keep",
    "samples.every_steps": "every",
    "samples.max_tokens": "tokens",
    "tracking": "telemetry",
}
FORMER_VALUES = {
    ("data.sequences.kind", "packed"): "chained",
    ("data.sequences.kind", "padded"): "documents",
    ("data.mode.kind", "pretokenized"): "prepared",
    ("data.mode.kind", "streaming"): "streamed",
    ("data.validation.kind", "holdout"): "held",
    ("data.validation.kind", "source"): "given",
}
# Command and option → its former name
FORMER_OPTIONS = {
    ("generate", "--max-tokens"): "--tokens",
    ("generate", "--dtype"): "--weights",
    ("evaluate", "--num-cloze"): "--questions",
    ("evaluate", "--num-samples"): "--stories",
    ("evaluate", "--max-tokens"): "--tokens",
}
# Names in result files, present → former. Undone when read, so that cached results of the baseline stay valid.
FORMER_RESULTS = {
    "grad_norm": "gradient_norm",
    "grad_norms": "gradient_norms",
    "sequences": "windows",
    "rollbacks": "rewinds",
}
# Parameter names in checkpoints: regular expression of a present name → the former one, as re.sub takes them.
# Names of moments have the parameter's name within.
FORMER_PARAMETERS: dict[str, str] = {}


def has_former_names(tree: Path) -> bool:
    """Whether the settings and options of a tree have the names from before the redesign."""
    return (tree / "src" / "fabella" / "config.py").exists()


def former_config(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A config in the names from before the redesign."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else key
        inner = former_config(value, dotted) if isinstance(value, Mapping) else value
        if isinstance(value, str):
            inner = FORMER_VALUES.get((dotted, value), value)
        result[FORMER_KEYS.get(dotted, key)] = inner
    return result


def former_command(words: Sequence[str]) -> list[str]:
    """A command line in the names from before the redesign."""
    return [FORMER_OPTIONS.get((words[0], word), word) for word in words]


def former_result(value: Any) -> Any:
    """A JSON value with the names from before the redesign."""
    if isinstance(value, list):
        return [former_result(each) for each in value]
    if isinstance(value, dict):
        return {FORMER_RESULTS.get(key, key): former_result(each) for key, each in value.items()}
    return value


def former_parameter(name: str) -> str:
    """A parameter's name from before the redesign."""
    for pattern, former in FORMER_PARAMETERS.items():
        name = re.sub(pattern, former, name)
    return name


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run and what is read from it."""

    name: str
    config: dict[str, Any]
    """All settings, in the present names"""
    devices: int = 1
    killed: bool = False
    """Killed after the first checkpoint and resumed"""
    same_as: str = ""
    """The case whose weights and moments this one must have as well"""
    texts: bool = False
    """Whether text is generated from the finished run"""
    evaluated: bool = False
    variables: dict[str, str] = field(default_factory=dict[str, str])
    """Environment variables of its own"""


XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_multi_thread_eigen=false"
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "XLA_FLAGS": XLA_FLAGS,
    "MPLBACKEND": "agg",
}
PROMPTS = ("Once upon a time", "The dog", "One day, Tom said:", "A", "")
SEEDS = (1, 2, 3)
GENERATED = {"float32": ["--dtype", "float32"], "int8": ["--dtype", "int8"], "jax": ["--engine", "jax"]}
EVALUATE = ["--num-samples", "16", "--num-cloze", "20", "--max-tokens", "60", "--device", "cpu", "--json"]

BPE = {"kind": "bpe", "vocab_size": 320}
PADDED = {"kind": "padded", "length": 64}
PACKED = {"kind": "packed", "length": 64, "stride": 64}
HOLDOUT = {"kind": "holdout", "fraction": 0.1}
STORIES = {"kind": "storybook", "stories": 300}
SHAPE = {"vocab_size": 320, "context_length": 64, "dim": 32, "layers": 2, "ffn_dim": 64}
SCHEDULE = [
    {"shape": "linear", "start": 0.1, "end": 1.0, "length": "20%"},
    {"shape": "cosine", "start": 1.0, "end": 0.1, "length": "80%"},
]
BASE: dict[str, Any] = {
    "name": "fingerprint",
    "seed": 3,
    "tokenizer": BPE,
    "data": {"source": STORIES, "validation": HOLDOUT, "sequences": PADDED},
    "optimizer": {"kind": "adamw", "lr": 5e-3, "weight_decay": 0.1, "max_grad_norm": 0.7, "schedule": SCHEDULE},
    "training": {"length": {"max_steps": STEPS}, "micro_batch_size": 8, "compile": "none", "log_every_steps": 5},
    "validation": {"every_steps": 10, "num_sequences": 32},
    "checkpoint": {"every_steps": KILLED_AFTER, "keep_last": 2},
    "samples": {"every_steps": 15, "max_tokens": 20},
}
# Every family with other settings, so that more of them are covered.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model": {**SHAPE, "heads": 2, "activation": "gelu_tanh", "tie_embeddings": False, "dropout": 0.1},
        "data": {**BASE["data"], "sequences": {"kind": "packed", "length": 64, "stride": 32}},
        "optimizer": {"kind": "adam", "lr": 5e-3, "betas": [0.9, 0.95]},
    },
    "llama": {
        "model": {**SHAPE, "context_length": 256, "heads": 2, "kv_heads": 1, "init_std": 0.07},
    },
    "minigpt": {
        "model": {**SHAPE, "embedding": 24, "heads": 2},
        "data": {**BASE["data"], "sequences": PACKED},
        "training": {**BASE["training"], "gradient_accumulation": [[0, 1], [15, 2]]},
    },
    "mingru": {
        "model": {**SHAPE, "vocab_size": 256},
        "tokenizer": {"kind": "bytes"},
        "data": {
            "source": STORIES,
            "validation": {"kind": "source", "source": {"kind": "storybook", "stories": 40, "seed": 9}},
            "sequences": PADDED,
        },
    },
    "hybrid": {
        "model": {**SHAPE, "layer_pattern": "ma", "heads": 2, "init_std": 0.08},
        "tokenizer": {"kind": "sentencepiece", "vocab_size": 320},
        "training": {**BASE["training"], "gradient_checkpointing": "blocks"},
    },
}
STREAMED = {
    "source": {
        "kind": "mixture",
        "parts": [
            {"weight": 3.0, "source": {"kind": "storybook", "stories": 90, "seed": 1}},
            {"weight": 1.0, "source": {"kind": "files", "paths": ["stories.txt"], "separator": "lines"}},
        ],
    },
    "validation": HOLDOUT,
    "sequences": PACKED,
    "mode": {
        "kind": "streaming",
        "document_shuffle_buffer": 40,
        "sequence_shuffle_buffer": 32,
        "tokenizer_sample_bytes": 40_000,
        "prefetch_batches": 3,
    },
}


def settings(family: str, engine: str = "torch", **sections: Any) -> dict[str, Any]:
    """The settings of a small run of a family; ``sections`` replace whole sections."""
    config = {**BASE, **FAMILIES[family], "engine": engine, **sections}
    return {**config, "model": {"family": family, **config["model"]}}


def cases() -> list[Case]:
    """All cases, the slower ones first, so that they end at about the same time."""
    muon = {"kind": "muon", "lr": 5e-3, "max_grad_norm": 0.7, "schedule": SCHEDULE}
    both = {"XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=2"}
    return [
        *(Case(name=f"{f}-torch", config=settings(f), texts=True, evaluated=f == "llama") for f in FAMILIES),
        Case(name="killed-torch", config=settings("llama"), killed=True, same_as="llama-torch"),
        Case(name="killed-jax", config=settings("hybrid", "jax"), killed=True, same_as="hybrid-jax"),
        Case(name="killed-streamed", config=settings("llama", data=STREAMED), killed=True, same_as="streamed-torch"),
        Case(name="killed-two-processes", config=settings("gpt2"), devices=2, killed=True, same_as="two-processes"),
        *(Case(name=f"{f}-jax", config=settings(f, "jax")) for f in FAMILIES),
        Case(name="two-processes", config=settings("gpt2"), devices=2),
        Case(name="two-devices-jax", config=settings("llama", "jax"), devices=2, variables=both),
        Case(name="two-processes-streamed", config=settings("llama", data=STREAMED), devices=2),
        Case(name="streamed-torch", config=settings("llama", data=STREAMED)),
        Case(name="streamed-jax", config=settings("llama", "jax", data=STREAMED)),
        Case(name="muon", config=settings("hybrid", optimizer=muon)),
    ]


def chosen(pattern: str) -> list[Case]:
    """Cases whose name matches, and those that they must be equal to."""
    found = cases()
    names = {case.name for case in found if re.search(pattern, case.name)}
    names |= {case.same_as for case in found if case.name in names}
    return [case for case in found if case.name in names]


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
    """A command that did not end as it should."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout, and which names its settings have."""

    path: Path
    former: bool

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line in the names of this tree."""
        return former_command(words) if self.former else list(words)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config in the names of this tree."""
        return former_config(config) if self.former else dict(config)

    def environment(self, case: Case | None = None) -> dict[str, str]:
        return {**os.environ, **ENVIRONMENT, **(case.variables if case else {}), "PYTHONPATH": str(self.path / "src")}

    def check(self) -> None:
        """Raises SystemExit unless Python imports fabella from this tree."""
        where = [sys.executable, "-c", "import fabella; print(fabella.__file__)"]
        done = subprocess.run(where, env=self.environment(), capture_output=True, text=True, cwd=tempfile.gettempdir())
        if not done.stdout.startswith(str(self.path / "src")):
            raise SystemExit(f"fabella is not imported from {self.path}: {done.stdout}{done.stderr}")


@dataclass(frozen=True, slots=True)
class Runner:
    """The commands of one case on one tree, in a folder of their own."""

    tree: Tree
    case: Case
    folder: Path

    def parts(self) -> Parts:
        """Run everything; the fingerprints. Raises FailedError where a command fails."""
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
        found = of_run(run)
        if case.texts:
            found |= self.texts()
        if case.evaluated:
            said = self.run(["-m", "fabella", *self.tree.command(["evaluate", "run", *EVALUATE])])
            found["evaluation"] = of_evaluation(next(json_values(said)))
        return found

    def texts(self) -> Parts:
        """Text from every prompt and seed: in float32, in int8, and by the JAX engine."""
        same = ["generate", "run", *PROMPTS, "--temperature", "0.8", "--max-tokens", "48", "--json"]
        words = [[*same, "--seed", str(seed), *how] for how in GENERATED.values() for seed in SEEDS]
        said = self.run(["-c", SEVERAL, json.dumps([self.tree.command(each) for each in words])])
        results = list(json_values(said))
        if len(results) != len(words):
            raise FailedError(f"{len(words)} texts were asked for, {len(results)} came: {said[-500:]}")
        found: Parts = {f"text {name}": {} for name in GENERATED}
        for number, result in enumerate(results):
            name, seed = list(GENERATED)[number // len(SEEDS)], SEEDS[number % len(SEEDS)]
            texts = list(values_of(result, "text"))
            if len(texts) != len(PROMPTS):
                raise FailedError(f"{len(PROMPTS)} prompts, but {len(texts)} texts: {str(result)[:500]}")
            found[f"text {name}"] |= {f"seed {seed}, {p!r}": text for p, text in zip(PROMPTS, texts, strict=True)}
        return found

    def run(self, words: Sequence[str]) -> str:
        """Run Python with ``words``; its standard output. Raises FailedError where it fails."""
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.tree.environment(self.case),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            shown = " ".join(words)[:200]
            raise FailedError(f"{shown} ended with code {done.returncode}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def kill(self, train: Sequence[str]) -> None:
        """Train until the first checkpoint is there, then kill every process; again if it was too late."""
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
        said = (self.folder / "killed.txt").read_text(errors="replace")
        raise FailedError(f"training was not killed in the middle, but ended with {process.returncode}: {said[-800:]}")


def own_stories() -> str:
    """The file of the mixture: a line a document."""
    names, places = ("Ann", "Ben", "Cleo", "Dan"), ("garden", "forest", "market", "harbour", "school")
    return "".join(
        f"{names[n % 4]} walked to the {places[n % 5]} and found {n} stones. Then it was time for supper.\n"
        for n in range(120)
    )


# ---------------------------------------------------------------- reading results


def of_run(run: Path) -> Parts:
    """The fingerprints of a finished run."""
    last = run / "checkpoints" / f"step-{STEPS:08d}"
    state = former_result(json.loads((last / "state.json").read_text(encoding="utf-8")))
    return {
        "weights": of_tensors(last / "model.safetensors"),
        "moments": of_tensors(last / "optimizer.safetensors"),
        "state": {key: json.dumps(value) for key, value in (state["numbers"] | state["progress"]).items()},
        "metrics": of_metrics(run / "metrics.jsonl"),
        "samples": {str(n): row["text"] for n, row in enumerate(rows_of(run / "samples.jsonl"))},
    }


def of_tensors(path: Path) -> Items:
    """Each tensor's shape, type and sha256."""
    return {
        former_parameter(name): f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
        for name, array in load_file(path).items()
    }


METRICS = {"tokens", "loss", "gradient_norm", "lr", "bits_per_byte", "perplexity"}
"""All others are times, or depend on the machine"""


def of_metrics(path: Path) -> Items:
    """Losses, learning rates and norms of every row."""
    return {
        f"{row['kind']} {row['step']} {key}": json.dumps(row[key])
        for row in rows_of(path)
        for key in sorted(METRICS & set(row))
    }


def of_evaluation(result: Mapping[str, Any]) -> Items:
    """How often each number occurs in an evaluation, whatever its name; without times and settings."""
    measured = {key: value for key, value in result.items() if key not in {"seconds", "settings", "format", "remarks"}}
    numbers = [json.dumps(value) for value in leaves(measured) if isinstance(value, int | float)]
    return {number: str(times) for number, times in sorted(Counter(numbers).items())}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [former_result(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def leaves(value: Any) -> Iterator[Any]:
    """Every value, at any depth, that is no mapping or list."""
    if isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


def values_of(value: Any, key: str) -> Iterator[Any]:
    """What stands under ``key``, at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from values_of(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from [each] if name == key else values_of(each, key)


def json_values(text: str) -> Iterator[Any]:
    """JSON values that follow each other."""
    decoder, text = json.JSONDecoder(), text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield former_result(value)
        text = text[end:].lstrip()


# ---------------------------------------------------------------- both sides


@dataclass(slots=True)
class Side:
    """The results of one tree."""

    tree: Tree
    folder: Path
    found: dict[str, Parts] = field(default_factory=dict[str, Parts])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, case: Case) -> None:
        """Run one case, and keep its fingerprints or its error."""
        try:
            self.found[case.name] = Runner(self.tree, case, self.folder / case.name).parts()
        except (FailedError, OSError, ValueError, KeyError) as error:
            self.failed[case.name] = f"{type(error).__name__}: {error}"


def machine() -> dict[str, str]:
    """What results may depend on: the processor and the versions of what computes."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    found = {"processor": models[0] if models else platform.processor(), "python": platform.python_version()}
    for package in ("torch", "jax", "jaxlib", "optax", "numpy", "tokenizers", "sentencepiece"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


class Cache:
    """Fingerprints of the baseline, kept between runs of this script."""

    def __init__(self, folder: Path | None, commit: str) -> None:
        self._folder, self._commit = folder, commit

    def _path(self, case: Case) -> Path | None:
        how = [ENVIRONMENT, PROMPTS, SEEDS, GENERATED, EVALUATE, own_stories(), STEPS, KILLED_AFTER, CACHE_FORMAT]
        key = json.dumps([self._commit, machine(), asdict(case), how], sort_keys=True)
        name = f"{case.name}-{self._commit[:12]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        return self._folder / name if self._folder else None

    def get(self, case: Case) -> Parts | None:
        path = self._path(case)
        return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None

    def put(self, case: Case, parts: Parts) -> None:
        if path := self._path(case):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(parts, indent=1), encoding="utf-8")


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A temporary worktree of ``commit``."""
    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the result."""

    name: str
    equal: bool
    before: str
    now: str
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        hashes = self.before if self.equal else f"{self.before} {self.now}"
        lines = [f"{'equal    ' if self.equal else 'DIFFERENT'} {self.name:<40} {hashes}"]
        return "\n".join([*lines, *(f"            {line}" for line in self.differences)])


def digest(items: Items | None) -> str:
    """sha256 over sorted names and values."""
    if items is None:
        return "missing"
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:32]


def compared(name: str, before: Items | None, now: Items | None) -> Comparison:
    """Two fingerprints, with a few of the items that differ."""
    ours, theirs = now or {}, before or {}
    names = [item for item in sorted(set(ours) | set(theirs)) if ours.get(item) != theirs.get(item)]
    shown = [f"{item}: {theirs.get(item, 'missing')[:90]} → {ours.get(item, 'missing')[:90]}" for item in names[:4]]
    more = [f"… and {len(names) - 4} more"] if len(names) > 4 else []
    equal = before is not None and before == now
    return Comparison(name, equal, digest(before), digest(now), (*shown, *more))


def comparisons(all_cases: Sequence[Case], baseline: Side, present: Side) -> Iterator[Comparison]:
    """Case by case, part by part; then runs that were killed against those that were not."""
    for case in all_cases:
        for side, words in ((baseline, "baseline"), (present, "present")):
            if case.name in side.failed:
                reason = (f"failed with the {words} tree: {side.failed[case.name]}",)
                yield Comparison(case.name, False, "", "", reason)
        if case.name in baseline.found and case.name in present.found:
            before, now = baseline.found[case.name], present.found[case.name]
            for part in dict.fromkeys([*before, *now]):
                yield compared(f"{case.name}: {part}", before.get(part), now.get(part))
    for case in all_cases:
        if case.same_as and {case.name, case.same_as} <= set(present.found):
            for part in ("weights", "moments"):
                whole, resumed = present.found[case.same_as][part], present.found[case.name][part]
                yield compared(f"{case.name}: {part} as {case.same_as}", whole, resumed)


def compute(given: argparse.Namespace, all_cases: Sequence[Case], folder: Path) -> tuple[Side, Side]:
    """Run every case on both trees, save what the cache has of the baseline."""
    commit = git("rev-parse", f"{given.baseline}^{{commit}}")
    cache = Cache(given.cache, commit)
    known = {case.name: parts for case in all_cases if (parts := cache.get(case))}
    missing = [case for case in all_cases if case.name not in known]
    former = {"auto": has_former_names(ROOT), "former": True, "present": False}[given.names]
    present = Side(Tree(ROOT, former), folder / "present")
    present.tree.check()
    if not missing:
        baseline = Side(Tree(ROOT, former), folder / "baseline", known)
        run_all([(present, case) for case in all_cases], given.jobs)
        return baseline, present
    with checked_out(commit, folder / "tree") as tree:
        baseline = Side(Tree(tree, has_former_names(tree)), folder / "baseline", known)
        baseline.tree.check()
        work = [(side, case) for case in all_cases for side in (baseline, present)]
        run_all([(side, case) for side, case in work if side is present or case in missing], given.jobs)
    for case in missing:
        if case.name in baseline.found:
            cache.put(case, baseline.found[case.name])
    return baseline, present


def run_all(work: Sequence[tuple[Side, Case]], jobs: int) -> None:
    """Run cases, ``jobs`` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda each: each[0].run(each[1]), work))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", default=BASELINE, help=f"commit to compare with; usually {BASELINE}")
    parser.add_argument("--only", default="", help="regular expression of the cases to run")
    parser.add_argument("--list", action="store_true", help="list the cases, and run none")
    parser.add_argument("--cache", type=Path, help="folder in which results of the baseline are kept")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--keep", action="store_true", help="keep all runs, and print where they are")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="cases at a time")
    parser.add_argument(
        "--names",
        choices=["auto", "former", "present"],
        default="auto",
        help="names of settings that this checkout has; auto: former where src/fabella/config.py exists",
    )
    return parser.parse_args()


def main() -> None:
    given = parsed()
    all_cases = chosen(given.only)
    if given.list or not all_cases:
        raise SystemExit("\n".join(case.name for case in cases()))
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fabella-fingerprints-")).resolve()
    try:
        found = list(comparisons(all_cases, *compute(given, all_cases, folder)))
    finally:
        if given.keep:
            print(f"The runs are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for comparison in found:
        print(comparison)
    different = sum(not comparison.equal for comparison in found)
    seconds = time.perf_counter() - began
    print(f"{len(found)} comparisons of {len(all_cases)} cases: {different} different, in {seconds:.0f} s")
    if given.output:
        kept = {"baseline": given.baseline, "machine": machine(), "seconds": round(seconds, 1), "different": different}
        result = kept | {"comparisons": [asdict(comparison) for comparison in found]}
        given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
