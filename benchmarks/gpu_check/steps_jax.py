"""Training steps of the JAX engine: speed, and equal bits in every repetition."""

import math
import time
from collections.abc import Iterator
from functools import partial

import jax as jax_library

from benchmarks.gpu_check.material_torch import digest, global_batch, section_run
from benchmarks.gpu_check.sections import Case, Settings, SkipCaseError, Values
from fabella.engine.engine_jax import create_engine
from fabella.models.flops import flops_per_token

PRESETS, TINY_PRESETS = ("minigpt-100m", "mingru-17m"), ("minigpt-100m",)
REPETITIONS, STEPS = 2, 5


def jax(settings: Settings) -> Iterator[Case]:
    """Yield steps of some presets. Raises SkipCaseError where JAX has no such device."""
    if settings.on_gpu and jax_library.default_backend() != "gpu":
        raise SkipCaseError("This JAX finds no GPU. Install jax[cuda13] in addition (docs/guide-engines.md).")
    for name in TINY_PRESETS if settings.tiny else PRESETS:
        yield name, partial(examine_steps, settings, name)


def examine_steps(settings: Settings, name: str) -> Values:
    """Take the same steps twice; passes if the states are equal and the loss is finite."""
    run = section_run(name, "engine=jax", "training.precision=bf16", tiny=settings.tiny)
    batch = global_batch(run)
    states: set[str] = set()
    seconds: list[float] = []
    first: list[float] = []
    loss = math.nan
    for _ in range(REPETITIONS):
        engine = create_engine(run, device=settings.device)
        start = time.perf_counter()
        engine.step(batch, 1e-3).read()
        first.append(time.perf_counter() - start)
        start = time.perf_counter()
        results = [engine.step(batch, 1e-3) for _ in range(STEPS)]
        loss = results[-1].read()["loss"]
        seconds.append((time.perf_counter() - start) / STEPS)
        states.add(digest(engine.state()))
    speed = batch.tokens.size / min(seconds)
    return {
        "passed": len(states) == 1 and math.isfinite(loss), "equal": len(states) == 1, "loss": loss,
        "devices": [str(device) for device in jax_library.devices()], "jax": jax_library.__version__,
        "first_step_seconds": first, "step_seconds": min(seconds), "tokens_per_second": speed,
        "flops_per_second": flops_per_token(run.model, run.data.sequences.length) * speed,
    }  # fmt: skip
