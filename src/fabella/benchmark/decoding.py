"""How fast texts are told on this machine, beside other programs where they are at hand.

Everybody tells as many tokens after the same prompt, the likeliest always, from random weights of the same shapes.
Contestants take turns, so that a busy machine slows all of them; ratios are medians over the turns.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.benchmark import training as training_bench
from fabella.benchmark.decode_task import DecodeTask
from fabella.benchmark.training import summary, taking_turns
from fabella.engine import engine as engines
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count_non_embedding
from fabella.run_config.files import preset

SHAPES = ("piny-37m", "tinystories-8m", "mingru-17m", "storybook-1m", "storybook-hybrid-1m")
"""The shapes that Fabella's telling is measured for."""
PROMPT_TOKENS, TOLD_TOKENS = 8, 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How to measure. ``llama2c``: the folder of its programs ``run`` and ``runq``; ``alone``: without peers.

    ``engine``: torch, which everybody is compared with, or jax, which then tells beside it.
    """

    turns: int = 5
    batches: Sequence[int] = (1, 16)
    tokens: int = TOLD_TOKENS
    device: str = "auto"
    threads: int = 0
    alone: bool = False
    llama2c: Path | None = None
    engine: str = "torch"


def bench(
    presets: Sequence[str], given: Conditions, report: Callable[[str, dict[str, Any]], None] = lambda name, result: None
) -> dict[str, Any]:
    """Measure each preset with each number of texts; ``report`` hears of each result as it comes."""
    engines.load(given.engine)  # one that cannot be used says so before an hour is spent
    engine = training_bench.step_parts("torch")
    engine.set_threads(given.threads)
    contestants = importlib.import_module("fabella.benchmark.peers.decoders_torch")
    results: dict[str, Any] = {}
    for name in presets:
        for batch in given.batches:
            result = _measure(preset(name).model, batch, given, contestants)
            results.setdefault(name, {})[str(batch)] = result
            report(f"{name} ({batch} at once)", result)
    like = training_bench.BenchOptions(turns=given.turns, device=given.device)
    settings = {**training_bench.settings(like, engine), "prompt_tokens": PROMPT_TOKENS, "told_tokens": given.tokens}
    return {"settings": settings, "shapes": results}


def _measure(config: ModelConfig, batch: int, given: Conditions, contestants: Any) -> dict[str, Any]:
    request = DecodeTask(config, batch, PROMPT_TOKENS, given.tokens, given.device, given.llama2c)
    who = contestants.available_baselines(request, alone=given.alone)
    if given.engine == "jax":
        who.insert(1, importlib.import_module("fabella.benchmark.peers.decoders_jax").fabella(request))
    try:
        for contestant in who:
            contestant.tell()
        bandwidth = contestants.read_bandwidth(given.device)
        turns: dict[str, list[dict[str, float]]] = {contestant.name: [] for contestant in who}
        for contestant in taking_turns(who, given.turns):
            turns[contestant.name].append({"telling": contestant.tell()})
    finally:
        for contestant in who:
            contestant.close()
    read = bytes_a_step(config)
    told = {name: summary(own, turns["fabella"], batch * given.tokens) for name, own in turns.items()}
    for name, one in told.items():
        size = read // (4 if "int8" in name else 2 if "float16" in name else 1)
        one["bandwidth_share"] = size * one["tokens_per_second"] / batch / bandwidth
    return {"read_bytes_per_second": bandwidth, "weight_bytes": read, "contestants": told}


def bytes_a_step(config: ModelConfig) -> int:
    """Of float32 weights that one step of all texts reads: everything but the rows of the embeddings, and one head."""
    table = config.parameters()
    width = next(row.shape[1] for row in table.values() if row.embedding and row.shape[0] == config.vocab_size)
    return 4 * (count_non_embedding(table) + config.vocab_size * width)
