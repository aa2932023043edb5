"""Training speed on this machine, part by part: data, forward pass, backward pass, optimizer.

Baselines alternate step by step, so that a busy machine slows all of them; ratios are medians over the rounds. Peak
memory is that of a child process (``python -m fabella.benchmark.training``) which takes three steps and nothing else.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import psutil

from fabella.data.child_process import ChildExitedError, ChildProcess, Handler, serve
from fabella.engine import engine as engines
from fabella.errors import FabellaError, UsageError, did_you_mean
from fabella.models.flops import flops_per_token
from fabella.planning.probe_worker import peak_rss
from fabella.run_config.files import preset
from fabella.runs.environment import environment

# Presets that are measured by default, as (sequences, tokens each); other presets have their own batch.
SHAPES = {"storybook-1m": (32, 256), "tinystories-8m": (16, 256), "piny-37m": (8, 256), "mingru-17m": (8, 512)}
PACKAGE = "fabella.benchmark"
WARM_UP_STEPS = 2
PAUSE_SECONDS = 0.3
"""Pause before each step: threads of the step before spin for a while and would slow it."""
MEMORY_STEPS = 3
CHILD_MODULE = "fabella.benchmark.training"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Settings of a training benchmark.

    ``bf16``: measure every baseline in bf16 as well, Fabella's first, with which the others are compared.
    ``compile``: measure every baseline eagerly and with torch.compile. ``only``: names of the baselines to measure;
    empty for all. ``package``: where the modules ``step_parts_torch`` and ``step_parts_jax`` with the baselines are.
    """

    engine: str = "torch"
    rounds: int = 7
    device: str = "auto"
    precision: str = "float32"
    threads: int = 0
    bf16: bool = False
    compile: bool = False
    memory: bool = True
    only: tuple[str, ...] = ()
    package: str = PACKAGE


def shape_of(name: str) -> tuple[int, int]:
    """Return the batch that a preset is measured with, as (sequences, tokens each). Raises ConfigError if unknown."""
    run = preset(name)
    return SHAPES.get(name, (run.training.micro_batch_size, run.data.sequences.length))


def step_parts(engine: str, package: str = PACKAGE) -> Any:
    """Return the module of ``package`` that times training steps. Raises ConfigError if the engine is not installed."""
    engines.backend(engine)
    return importlib.import_module(f"{package}.step_parts_{engine}")


def bench(
    presets: Sequence[str],
    options: BenchOptions,
    report: Callable[[str, dict[str, Any]], None] = lambda name, result: None,
) -> dict[str, Any]:
    """Measure each preset and call ``report`` with every result. Raises ConfigError for an unknown one, at once."""
    for name in presets:
        preset(name)  # an unknown one is an error before an hour is spent on the others
    parts = step_parts(options.engine, options.package)
    parts.set_threads(options.threads)
    results: dict[str, Any] = {}
    for name in presets:
        results[name] = _measure(name, options, parts)
        report(name, results[name])
    return {"settings": settings(options, parts), "shapes": results}


def _measure(name: str, options: BenchOptions, parts: Any) -> dict[str, Any]:
    config, shape = preset(name).model, shape_of(name)
    names: list[str] = parts.names(config)
    if options.bf16:
        names = [variant for base in names for variant in (f"{base} bf16", base)]
    if options.compile:
        names = [variant for base in names for variant in (base, f"{base} compiled")]
    if options.only:
        names = _select(names, options.only)
    baselines = [_create(each, options.engine, options.package, config, (shape, options)) for each in names]
    peak_precision = "bf16" if options.bf16 else options.precision
    peaks = [parts.peak(options.device, peak_precision)]
    first: dict[str, float] = {}
    for baseline in baselines:
        first[baseline.name] = sum(baseline.step().values())
        for _ in range(WARM_UP_STEPS - 1):
            baseline.step()
    rounds: dict[str, list[dict[str, float]]] = {each: [] for each in names}
    for baseline in alternate(baselines, options.rounds):
        rounds[baseline.name].append(baseline.step())
    peaks.append(parts.peak(options.device, peak_precision))
    flops, fastest = flops_per_token(config, shape[1]) * shape[0] * shape[1], max(peaks)
    result: dict[str, Any] = {"batch": shape[0], "time": shape[1], "peak_flops_per_second": fastest}
    result["peak_precision"] = peak_precision
    result["reference"] = names[0]
    result["baselines"] = {
        baseline.name: {
            "parameters": baseline.parameters,
            "first_step_seconds": first[baseline.name],
            **summarize(rounds[baseline.name], rounds[names[0]], shape[0] * shape[1]),
        }
        for baseline in baselines
    }
    for each, summary in result["baselines"].items():
        summary["mfu"] = flops / summary["seconds_per_step"] / fastest
        summary["peak_bytes"] = peak_memory(name, each, options) if options.memory else None
    return result


def alternate(baselines: Sequence[Any], rounds: int) -> Iterator[Any]:
    """Yield every baseline once per round, in alternating order, after a pause."""
    for number in range(rounds):
        for baseline in baselines if number % 2 else reversed(baselines):
            time.sleep(PAUSE_SECONDS)
            yield baseline


def _select(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Return the requested names, Fabella first. Raises UsageError for an unknown name and without any Fabella."""
    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"Unknown baseline '{unknown[0]}' in --only.", hint=did_you_mean(unknown[0], names))
    selected = [name for name in names if name in only]
    if not selected[0].startswith("fabella"):
        raise UsageError("--only names no variant of Fabella to compare with.", hint=f"Add {names[0]}.")
    return selected


def _create(name: str, engine: str, package: str, config: Any, batch: tuple[tuple[int, int], BenchOptions]) -> Any:
    """Create a baseline; its name may give another engine, as in ``fabella on torch``."""
    base, _, other = name.partition(" on ")
    shape, options = batch
    parts = step_parts(other or engine, package)
    baseline = parts.create_baseline(base, config, shape, options.precision, options.device)
    baseline.name = name
    return baseline


def summarize(own: Sequence[Mapping[str, float]], ours: Sequence[Mapping[str, float]], tokens: int) -> dict[str, Any]:
    """Return medians over the rounds of a baseline (``own``), and of Fabella's speed (``ours``) relative to it.

    A round is the seconds of each part of a step, and ``tokens`` the tokens of a step.
    """
    totals, fabella = [sum(parts.values()) for parts in own], [sum(parts.values()) for parts in ours]
    ratios = [theirs / mine for theirs, mine in zip(totals, fabella, strict=True)]
    return {
        "tokens_per_second": tokens / median(totals),
        "seconds_per_step": median(totals),
        "seconds": {part: median(parts[part] for parts in own) for part in own[0]},
        "fabella_speedup": median(ratios),
        "fabella_speedup_quartiles": quantiles(ratios, n=4)[::2] if len(ratios) > 1 else [ratios[0], ratios[0]],
    }


def peak_memory(name: str, baseline: str, options: BenchOptions) -> int:
    """Return the peak memory of a few training steps in a child process, in bytes above its memory without a model."""
    request = {
        "preset": name,
        "engine": options.engine,
        "package": options.package,
        "baseline": baseline,
        "precision": options.precision,
        "device": options.device,
        "shape": shape_of(name),
        "threads": options.threads,
    }
    with ChildProcess(CHILD_MODULE, request, name="The memory measurement", keep_stderr=True) as child:
        try:
            (peak,) = child.request()
        except ChildExitedError as error:
            last = (child.stderr().strip().splitlines() or ["no output"])[-1]
            raise FabellaError(f"Cannot measure the memory of {baseline} at {name}: {error.status}, {last}") from error
    return int(peak)


def open_handler(request: dict[str, Any]) -> Handler:
    """Return the handler of the child process, which takes a few training steps and returns their peak memory."""
    return lambda _parts: [str(_peak_of_steps(request)).encode()]


def _peak_of_steps(request: dict[str, Any]) -> int:
    engine, package = request["engine"], request["package"]
    parts, memory = step_parts(engine, package), engines.backend(engine, "measure.memory")
    parts.set_threads(request["threads"])
    config, shape = preset(request["preset"]).model, tuple(request["shape"])
    options = BenchOptions(precision=request["precision"], device=request["device"])
    before = psutil.Process().memory_info().rss
    baseline = _create(request["baseline"], engine, package, config, (shape, options))
    for _ in range(MEMORY_STEPS):
        baseline.step()
    on_gpu = memory.peak_memory(request["device"])
    return peak_rss() - before if on_gpu is None else on_gpu


def settings(options: BenchOptions, parts: Any) -> dict[str, Any]:
    """Return the versions, the machine and the settings that a result depends on."""
    machine = environment()
    return {
        "date": time.strftime("%Y-%m-%d"),
        **{key: machine[key] for key in ("fabella", "python", "torch", "processor", "cores", "memory_bytes")},
        **parts.settings(options.device),
        "precision": options.precision,
        "bf16": options.bf16,
        "rounds": options.rounds,
        "warm_up_steps": WARM_UP_STEPS,
        "load_before": psutil.getloadavg()[0],
        # Peers can set these, too: they decide much of the speed on CPUs.
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
    }


if __name__ == "__main__":
    serve(open_handler)
