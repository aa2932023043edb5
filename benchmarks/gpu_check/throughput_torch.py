"""Training steps per second of the engine, and of a plain PyTorch step that is compiled as a whole.

MFU is relative to products of random matrices in bf16, measured in the same process, and to the maker's number where
it is known.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_check.material_torch import (
    free_memory,
    global_batch,
    matmul_flops,
    median_seconds,
    packed,
    section_run,
    tensors,
)
from benchmarks.gpu_check.sections import Case, Settings, Values
from benchmarks.peers.nanogpt_torch import NanoGPT
from fabella.engine.build_model_torch import build
from fabella.engine.device_torch import pick_device
from fabella.engine.engine_torch import create_engine
from fabella.engine.measure.memory_torch import activation_bytes, loss_bytes
from fabella.models.flops import flops_per_token
from fabella.models.parameters import count, initial_weights
from fabella.run_config.run import RunConfig

PUBLISHED_FLOPS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
"""Part of a GPU's name → dense bf16 FLOP/s in NVIDIA's data sheet."""
BYTES_PER_PARAMETER = 16
"""Weight, gradient and the two moments of AdamW, float32."""
TOP_KERNELS = 20


BF16 = ("training.precision=bf16",)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of training a preset."""

    preset: str
    name: str
    overrides: tuple[str, ...] = BF16
    compiled: bool | None = False
    """None: as ``training.compile=auto`` decides for a run of LONG_RUN steps."""
    micro_batches: int = 1
    """Times the preset's micro-batch."""
    plain: bool = False

    def run(self, *, tiny: bool) -> RunConfig:
        """Return the config; a tiny one is not compiled."""
        base = section_run(self.preset, tiny=tiny)
        size = f"training.micro_batch_size={base.training.micro_batch_size * self.micro_batches}"
        sequences = packed(base) if self.compiled else []
        if self.compiled is None and not tiny:
            compile_ = f"training.length={{max_steps: {LONG_RUN}}}"
        else:
            compile_ = "training.compile=blocks" if self.compiled and not tiny else "training.compile=none"
        has_dropout = self.compiled is not None and "dropout" in type(base.model).model_fields
        dropout = ["model.dropout=0"] if has_dropout else []  # the plain step has none
        return section_run(self.preset, size, compile_, *sequences, *dropout, *self.overrides, tiny=tiny)


LONG_RUN = 20_000
PLAIN, PRESET, EAGER, COMPILED, LARGE, FREE = (
    "plain compiled", "as the preset says", "bf16", "bf16 compiled", "bf16 compiled, micro-batch x 4",
    "bf16 compiled, not deterministic",
)  # fmt: skip
ORDER = {
    "minigpt-100m": (PLAIN, PRESET, EAGER, COMPILED, FREE),
    "gpt2-92m": (PLAIN, PRESET, EAGER, COMPILED, FREE),
    "mingru-17m": (PRESET, COMPILED),  # as a whole, its scan would take minutes to compile
    "piny-37m": (PLAIN, PRESET, LARGE),
    "tinystories-28m": (PRESET, LARGE),
    "tinystories-8m": (PRESET,),
}
"""Preset → its variants. What matters most comes first, because the section has a time limit.

The plain step is the first variant, because the others are compared with it.
"""


def variant(preset: str, name: str) -> Variant:
    """Return a variant of a preset by its name."""
    return {
        PLAIN: Variant(preset, name, compiled=True, plain=True),
        PRESET: Variant(preset, name, overrides=(), compiled=None),
        EAGER: Variant(preset, name),
        COMPILED: Variant(preset, name, compiled=True),
        LARGE: Variant(preset, name, compiled=True, micro_batches=4),
        FREE: Variant(preset, name, (*BF16, "training.deterministic=false"), compiled=True),
    }[name]


def throughput(settings: Settings) -> Iterator[Case]:
    """Yield every variant of every preset."""
    peak = matmul_flops(settings, torch.bfloat16)
    for preset, names in ORDER.items():
        plain: dict[str, float] = {}
        for name in names:
            yield f"{preset} {name}", partial(examine_variant, settings, variant(preset, name), peak, plain)


def examine_variant(settings: Settings, way: Variant, peak: float, plain: dict[str, float]) -> Values:
    """Return speed and memory of a variant; passes if its loss is finite. ``plain`` keeps the plain step's speed."""
    run = way.run(tiny=settings.tiny)
    free_memory(settings)
    start = time.perf_counter()
    step, described = plain_step(settings, run) if way.plain else engine_step(settings, run)
    loss = step()
    first_seconds = time.perf_counter() - start
    seconds = median_seconds(settings, step, repeats=7, warmup=2)
    tokens = global_batch(run).tokens.size
    speed, flops = tokens / seconds, flops_per_token(run.model, run.data.sequences.length)
    values: Values = {
        "passed": math.isfinite(loss), "loss": loss, "micro_batch": run.training.micro_batch_size, **described,
        "first_step_seconds": first_seconds, "step_seconds": seconds, "tokens_per_second": speed,
        "flops_per_token": flops, "peak_flops_per_second": peak, "mfu": flops * speed / peak,
    }  # fmt: skip
    if way.plain:
        plain["speed"] = speed
    elif plain:
        values["times_plain"] = speed / plain["speed"]
    if settings.on_gpu:
        values |= gpu_values(settings, step, flops * speed)
    del step
    free_memory(settings)
    return values


def gpu_values(settings: Settings, step: Callable[[], float], flops_per_second: float) -> Values:
    """Return peak memory, MFU by the data sheet, and the kernels that take most of the time."""
    name = torch.cuda.get_device_name(settings.device)
    published = next((flops for part, flops in PUBLISHED_FLOPS.items() if part in name), None)
    values: Values = {"peak_bytes": torch.cuda.max_memory_allocated(), "kernels": top_kernels(step)}
    return values if published is None else {**values, "mfu_of_data_sheet": flops_per_second / published}


def engine_step(settings: Settings, run: RunConfig) -> tuple[Callable[[], float], Values]:
    """Return a step of the engine, which returns its loss on a CPU and after the first step, and its description."""
    engine, batch = create_engine(run, device=settings.device), global_batch(run)
    losses: list[float] = []

    def step() -> float:
        result = engine.step(batch, 1e-4)
        if not losses:  # later ones are not read: that would wait for the device
            losses.append(result.read()["loss"])
        return losses[0]

    sequences = run.training.micro_batch_size
    planned = activation_bytes(run, sequences, settings.device) + loss_bytes(run, sequences, settings.device)
    planned += BYTES_PER_PARAMETER * count(run.model.parameters())
    described = {key: engine.describe()[key] for key in ("precision", "compiled", "tf32")}
    return step, {**described, "planned_bytes": planned}


def plain_step(settings: Settings, run: RunConfig) -> tuple[Callable[[], float], Values]:
    """Return the step of a short training script: autocast, all logits at once, fused AdamW, torch.compile.

    GPT-2 is nanoGPT's; any other network is the family's own, whose parts PyTorch's compiler fuses.
    """
    config: Any = run.model
    device = pick_device(settings.device)
    is_gpt2 = config.family == "gpt2"
    network: Any = NanoGPT(config) if is_gpt2 else build(config, initial_weights(config.parameters(), 1), device)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    model: Any = network if settings.tiny else torch.compile(network, dynamic=False)
    size = run.training.micro_batch_size
    tokens, targets = tensors(global_batch(run), device)
    losses: list[float] = []

    def step() -> float:
        total = torch.zeros((), device=device)
        for start in range(0, len(tokens), size):
            part = slice(start, start + size)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = whole_loss(model, tokens[part], targets[part], with_targets=is_gpt2) * (size / len(tokens))
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not losses:
            losses.append(float(total))
        return losses[0]

    return step, {"precision": "bfloat16", "compiled": "nothing" if settings.tiny else "everything",
                  "network": "nanoGPT" if is_gpt2 else "the family's own"}  # fmt: skip


def whole_loss(model: Any, tokens: Tensor, targets: Tensor, *, with_targets: bool) -> Tensor:
    """Return the mean cross-entropy from the logits of the whole micro-batch."""
    if with_targets:
        return model(tokens, targets)
    return functional.cross_entropy(model(tokens).flatten(0, 1).float(), targets.flatten())


def top_kernels(step: Callable[[], float]) -> list[dict[str, Any]]:
    """Return the kernels that take most of a step on the GPU, with their share of its time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    whole = sum(event.self_device_time_total for event in events) or 1.0
    return [
        {"kernel": event.key[:90], "launches": event.count, "share": round(event.self_device_time_total / whole, 4)}
        for event in events[:TOP_KERNELS]
    ]
