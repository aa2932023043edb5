"""Training steps of the PyTorch engine: precision, waits for the device, and equal bits."""

import math
import time
import traceback
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_check.material_torch import (
    PRESETS,
    digest,
    free_memory,
    global_batch,
    median_seconds,
    packed,
    section_run,
    synchronize,
)
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.config.training import Float32
from fabella.engine.device_torch import describe_precision, pick_device, resolve_precision
from fabella.engine.engine_torch import create_engine
from fabella.run_config.files import preset, preset_names
from fabella.run_config.run import RunConfig

REPETITIONS, STEPS = 3, 4


def defaults(settings: Settings) -> Iterator[Case]:
    """Yield the precision of every preset."""
    for name in preset_names():
        yield name, partial(examine_default, settings, name)


def examine_default(settings: Settings, name: str) -> Values:
    """Return the precision that a preset gets; passes if a GPU computes in half precision unless float32 is set."""
    run = section_run(name, tiny=settings.tiny)
    requested = preset(name).training.precision
    precision = resolve_precision(requested, pick_device(settings.device), run.model.parameters())
    half = precision.compute in (torch.bfloat16, torch.float16)
    expected = half or isinstance(requested, Float32) if settings.on_gpu else precision.compute != torch.float16
    return {"passed": expected, "requested": requested.kind, "precision": describe_precision(requested, precision)}


def syncs(settings: Settings) -> Iterator[Case]:
    """Yield a step of every preset."""
    for name in PRESETS:
        yield name, partial(examine_syncs, settings, name)


def examine_syncs(settings: Settings, name: str) -> Values:
    """Return the time in which the host queues a step; passes if that never waits for the device.

    A CPU computes each operation at once, so that only the loss is examined there.
    """
    run = section_run(name, "training.precision=bf16", "training.compile=none", tiny=settings.tiny)
    engine, batch = create_engine(run, device=settings.device), global_batch(run)
    for _ in range(2):
        engine.step(batch, 1e-4)
    synchronize(settings)
    where: list[str] = []
    if settings.on_gpu:
        torch.cuda.set_sync_debug_mode("error")
    start = time.perf_counter()
    try:
        result = engine.step(batch, 1e-4)
    except RuntimeError:
        where, result = traceback.format_exc().splitlines()[-8:], None
    finally:
        host_seconds = time.perf_counter() - start
        if settings.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    synchronize(settings)
    step_seconds = time.perf_counter() - start
    loss = result.read()["loss"] if result is not None else None
    free_memory(settings)
    return {
        "passed": loss is not None and math.isfinite(loss), "host_seconds": host_seconds,
        "step_seconds": step_seconds, "loss": loss, "waits_at": where,
    }  # fmt: skip


def determinism(settings: Settings) -> Iterator[Case]:
    """Yield repeated steps of every preset, and of compiled blocks."""
    for name in PRESETS:
        yield name, partial(examine_repetition, settings, name)
    if settings.on_gpu:
        for name in ("minigpt-100m", "mingru-17m"):
            yield f"{name} compiled", partial(examine_repetition, settings, name, compiled=True)


def examine_repetition(settings: Settings, name: str, *, compiled: bool = False) -> Values:
    """Take the same steps several times with ``training.deterministic`` and without; passes if the former are equal."""
    overrides = ["training.precision=bf16", f"training.compile={'blocks' if compiled else 'none'}"]
    overrides += packed(section_run(name, tiny=settings.tiny)) if compiled else []
    if not settings.tiny:
        overrides.append("model.layers=2")  # every layer computes the same way
    run = section_run(name, *overrides, tiny=settings.tiny)
    equal, seconds = repeat_steps(settings, run)
    free = run.model_copy(update={"training": run.training.model_copy(update={"deterministic": False})})
    equal_without, seconds_without = repeat_steps(settings, free)
    return {
        "passed": equal, "equal": equal, "equal_without": equal_without,
        "step_seconds": seconds, "step_seconds_without": seconds_without, "cost": seconds / seconds_without - 1,
    }  # fmt: skip


def repeat_steps(settings: Settings, run: RunConfig) -> tuple[bool, float]:
    """Return whether a few steps from the first weights give the same state each time, and the seconds of a step."""
    states: set[str] = set()
    seconds: list[float] = []
    for _ in range(REPETITIONS):
        engine = create_engine(run, device=settings.device)
        for step in range(STEPS):
            engine.step(global_batch(run, seed=step), 1e-3)
        states.add(digest(engine.state()))
        batch = global_batch(run)
        seconds.append(median_seconds(settings, partial(engine.step, batch, 1e-3), repeats=5, warmup=1))
        del engine
        free_memory(settings)
    return len(states) == 1, min(seconds)
