"""Decoding speed on this machine, one sequence at a time and in batches.

Every baseline decodes as many tokens after the same prompt, greedily, with random weights of the same shapes.
Baselines alternate, so that a busy machine slows all of them; ratios are medians over the rounds.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fabella.benchmark import training as training_bench
from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask
from fabella.benchmark.training import alternate, summarize
from fabella.engine import engine as engines
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count_non_embedding
from fabella.run_config.files import preset

SHAPES = ("piny-37m", "tinystories-8m", "mingru-17m", "storybook-1m", "storybook-hybrid-1m")
"""Presets that are measured by default."""
PROMPT_TOKENS, MAX_TOKENS = 8, 240


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBenchOptions:
    """Settings of a decoding benchmark.

    ``batches``: numbers of sequences decoded at once. ``engine``: torch, or jax to measure the JAX engine as well.
    """

    rounds: int = 5
    batches: Sequence[int] = (1, 16)
    max_tokens: int = MAX_TOKENS
    device: str = "auto"
    threads: int = 0
    engine: str = "torch"


def bench(
    presets: Sequence[str],
    options: DecodeBenchOptions,
    report: Callable[[str, dict[str, Any]], None] = lambda name, result: None,
    *,
    available_baselines: Callable[[DecodeTask], list[DecodeBaseline]] | None = None,
) -> dict[str, Any]:
    """Measure each preset with each batch size and call ``report`` with every result.

    ``available_baselines`` returns what is measured on a task, Fabella first; by default Fabella alone.
    Raises ConfigError for an unknown preset, before any is measured.
    """
    models = {name: preset(name).model for name in presets}
    engines.backend(options.engine)  # an engine that is not installed is an error before an hour is spent
    parts = training_bench.step_parts("torch")
    parts.set_threads(options.threads)
    decoders = importlib.import_module("fabella.benchmark.decoders_torch")
    results: dict[str, Any] = {}
    for name, model in models.items():
        for batch in options.batches:
            task = DecodeTask(model, batch, PROMPT_TOKENS, options.max_tokens, options.device)
            baselines = (available_baselines or decoders.available_baselines)(task)
            result = _measure(task, baselines, options, decoders.read_bandwidth)
            results.setdefault(name, {})[str(batch)] = result
            report(f"{name} (batch of {batch})", result)
    like = training_bench.BenchOptions(rounds=options.rounds, device=options.device)
    settings = training_bench.settings(like, parts)
    tokens = {"prompt_tokens": PROMPT_TOKENS, "max_tokens": options.max_tokens}
    return {"settings": {**settings, **tokens}, "shapes": results}


def _measure(
    task: DecodeTask, baselines: list[DecodeBaseline], options: DecodeBenchOptions, bandwidth: Callable[[str], float]
) -> dict[str, Any]:
    if options.engine == "jax":
        baselines.insert(1, importlib.import_module("fabella.benchmark.decoders_jax").fabella(task))
    try:
        for baseline in baselines:
            baseline.decode()
        bytes_per_second = bandwidth(options.device)
        rounds: dict[str, list[dict[str, float]]] = {baseline.name: [] for baseline in baselines}
        for baseline in alternate(baselines, options.rounds):
            rounds[baseline.name].append({"decode": baseline.decode()})
    finally:
        for baseline in baselines:
            baseline.close()
    weight_bytes = bytes_per_step(task.config)
    summaries = {
        name: summarize(seconds, rounds["fabella"], task.batch * task.tokens) for name, seconds in rounds.items()
    }
    for name, summary in summaries.items():
        size = weight_bytes // (4 if "int8" in name else 2 if "float16" in name else 1)
        summary["bandwidth_share"] = size * summary["tokens_per_second"] / task.batch / bytes_per_second
    return {"read_bytes_per_second": bytes_per_second, "weight_bytes": weight_bytes, "baselines": summaries}


def bytes_per_step(config: ModelConfig) -> int:
    """Return the bytes of float32 weights that one decode step reads: all but the embedding rows, and one head."""
    table = config.parameters()
    width = next(spec.shape[1] for spec in table.values() if spec.embedding and spec.shape[0] == config.vocab_size)
    return 4 * (count_non_embedding(table) + config.vocab_size * width)
