"""How fast training is on this machine, part by part, beside other libraries where they are installed.

Contestants take turns, step by step, so that a busy machine slows all of them; ratios are medians over the turns. Peak
memory is that of a child process (``python -m fabella.benchmark.training``) which takes three steps and nothing else.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from statistics import median, quantiles
from typing import Any

import psutil

from fabella.engine import engine as engines
from fabella.errors import FabellaError, UsageError, did_you_mean
from fabella.models.flops import flops_per_token
from fabella.planning.probe_worker import peak_rss
from fabella.run_config.files import preset
from fabella.runs.environment import environment

# The shapes that Fabella's speed is told for; any other preset has its own micro-batch and windows.
SHAPES = {"storybook-1m": (32, 256), "tinystories-8m": (16, 256), "piny-37m": (8, 256), "mingru-17m": (8, 512)}
PEERS = ("transformers", "litgpt", "mingru-pytorch", "llama-cpp-python")
WARM_UP_STEPS = 2
PAUSE_SECONDS = 0.3
"""Before each step: for the threads of the one before, which go on looking for work for a while"""
MEMORY_STEPS = 3
CHILD = [sys.executable, "-P", "-m", "fabella.benchmark.training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How to measure. ``compiled``: with torch.compile as well. ``alone``: without peers. ``only``: these of them."""

    engine: str = "torch"
    turns: int = 7
    device: str = "auto"
    precision: str = "float32"
    threads: int = 0
    compiled: bool = False
    alone: bool = False
    memory: bool = True
    only: tuple[str, ...] = ()


def shape_of(name: str) -> tuple[int, int]:
    """Windows, and tokens in each, that a preset is measured with. Raises ConfigError for no preset."""
    run = preset(name)
    return SHAPES.get(name, (run.training.micro_batch_size, run.data.sequences.length))


def step_parts(engine: str) -> Any:
    """The module that measures training steps with ``engine``. Raises ConfigError for an engine that cannot be used."""
    engines.load(engine)
    return importlib.import_module(f"fabella.benchmark.step_parts_{engine}")


def bench(
    presets: Sequence[str],
    given: BenchOptions,
    report: Callable[[str, dict[str, Any]], None] = lambda name, result: None,
) -> dict[str, Any]:
    """Measure each preset; ``report`` hears of each result as it comes."""
    engine = step_parts(given.engine)
    engine.set_threads(given.threads)
    results: dict[str, Any] = {}
    for name in presets:
        results[name] = _measure(name, given, engine)
        report(name, results[name])
    return {"settings": settings(given, engine), "shapes": results}


def _measure(name: str, given: BenchOptions, engine: Any) -> dict[str, Any]:
    config, shape = preset(name).model, shape_of(name)
    who = [one for one in engine.names(config) if one == "fabella" or not given.alone]
    who = [each for one in who for each in ([one, f"{one} compiled"] if given.compiled else [one])]
    if given.only:
        who = _chosen(who, given.only)
    contestants = [_contestant(each, given.engine, config, shape, (given.precision, given.device)) for each in who]
    peaks = [engine.peak(given.device, given.precision)]
    first: dict[str, float] = {}
    for contestant in contestants:
        first[contestant.name] = sum(contestant.step().values())
        for _ in range(WARM_UP_STEPS - 1):
            contestant.step()
    turns: dict[str, list[dict[str, float]]] = {each: [] for each in who}
    for contestant in taking_turns(contestants, given.turns):
        turns[contestant.name].append(contestant.step())
    peaks.append(engine.peak(given.device, given.precision))
    flops, fastest = flops_per_token(config, shape[1]) * shape[0] * shape[1], max(peaks)
    result: dict[str, Any] = {"batch": shape[0], "time": shape[1], "peak_flops_per_second": fastest}
    result["compared_with"] = who[0]
    result["contestants"] = {
        contestant.name: {
            "parameters": contestant.parameters,
            "first_step_seconds": first[contestant.name],
            **summary(turns[contestant.name], turns[who[0]], shape[0] * shape[1]),
        }
        for contestant in contestants
    }
    for each, told in result["contestants"].items():
        told["utilisation"] = flops / told["seconds_per_step"] / fastest
        told["peak_bytes"] = peak_memory(name, each, given) if given.memory else None
    return result


def taking_turns(contestants: Sequence[Any], turns: int) -> Iterator[Any]:
    """Each of them once a turn, in one order and then the other, with a pause before."""
    for turn in range(turns):
        for contestant in contestants if turn % 2 else reversed(contestants):
            time.sleep(PAUSE_SECONDS)
            yield contestant


def _chosen(who: Sequence[str], only: Sequence[str]) -> list[str]:
    """Those of ``who`` that were asked for. Raises UsageError where one is none of them, or none is Fabella."""
    if strange := [name for name in only if name not in who]:
        raise UsageError(f"--only {strange[0]} does not take part here.", hint=did_you_mean(strange[0], who))
    chosen = [name for name in who if name in only]
    if not chosen[0].startswith("fabella"):
        raise UsageError("--only names no Fabella to compare with.", hint=f"Add {who[0]}.")
    return chosen


def _contestant(name: str, engine: str, config: Any, shape: tuple[int, int], how: tuple[str, str]) -> Any:
    """``how``: precision and device. A name may say its engine: ``fabella on torch``."""
    who, _, other = name.partition(" on ")
    contestant = step_parts(other or engine).Baseline(who, config, shape, *how)
    contestant.name = name
    return contestant


def summary(own: Sequence[Mapping[str, float]], ours: Sequence[Mapping[str, float]], tokens: int) -> dict[str, Any]:
    """Medians over the turns: of a contestant, and of the ratio of Fabella's speed (``ours``) to its own."""
    totals, fabella = [sum(turn.values()) for turn in own], [sum(turn.values()) for turn in ours]
    ratios = [theirs / mine for theirs, mine in zip(totals, fabella, strict=True)]
    return {
        "tokens_per_second": tokens / median(totals),
        "seconds_per_step": median(totals),
        "seconds": {part: median(turn[part] for turn in own) for part in own[0]},
        "fabella_by_this": median(ratios),
        "fabella_by_this_quartiles": quantiles(ratios, n=4)[::2] if len(ratios) > 1 else [ratios[0], ratios[0]],
    }


def peak_memory(name: str, contestant: str, given: BenchOptions) -> int:
    """Bytes that training takes above what the process took before there was a model."""
    request = {
        "preset": name,
        "engine": given.engine,
        "contestant": contestant,
        "precision": given.precision,
        "device": given.device,
    }
    words = json.dumps({**request, "shape": shape_of(name), "threads": given.threads})
    done = subprocess.run(CHILD, input=words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise FabellaError(f"The memory of {contestant} at {name} cannot be measured: code {done.returncode}, {last}")
    return int(done.stdout.split()[-1])


def child() -> None:
    """Take a few steps, and print how much memory they took at most."""
    asked = json.load(sys.stdin)
    engine, memory = step_parts(asked["engine"]), engines.load(asked["engine"], "measure.memory")
    engine.set_threads(asked["threads"])
    config, shape = preset(asked["preset"]).model, tuple(asked["shape"])
    how = asked["precision"], asked["device"]
    before = psutil.Process().memory_info().rss
    contestant = _contestant(asked["contestant"], asked["engine"], config, shape, how)
    for _ in range(MEMORY_STEPS):
        contestant.step()
    on_gpu = memory.peak_memory(asked["device"])
    print(peak_rss() - before if on_gpu is None else on_gpu)


def settings(given: BenchOptions, engine: Any) -> dict[str, Any]:
    """What a number means nothing without."""
    installed = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}
    peers = {name: installed[name] for name in PEERS if name in installed}
    here = environment()
    return {
        "date": time.strftime("%Y-%m-%d"),
        **{key: here[key] for key in ("fabella", "python", "torch", "processor", "cores", "memory_bytes")},
        **peers,
        **engine.settings(given.device),
        "precision": given.precision,
        "turns": given.turns,
        "warm_up_steps": WARM_UP_STEPS,
        "load_before": os.getloadavg()[0],
        # Peers can set these, too: they decide much of the speed on CPUs.
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
    }


if __name__ == "__main__":
    child()
