"""Loss and gradients of every family: of a CPU in float32, and of the device in each precision."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.material_torch import random_batch, section_run, tensors
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.benchmark.step_parts_torch import without_dropout
from fabella.data.batches import Batch
from fabella.engine.build_model_torch import build
from fabella.engine.compile.compile_torch import compile_blocks
from fabella.engine.device_torch import pick_device
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights

PRESETS = ("minigpt-100m", "gpt2-92m", "piny-37m", "mingru-17m", "storybook-hybrid-1m")
"""One of every family with a preset; the models are tiny, so that float32 sums have few terms."""
TOLERANCES = {"float32": 1e-4, "bf16": 0.1, "fp16": 0.05}
"""Largest relative error of a gradient, and of the loss."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FLOOR = 1e-2
"""Share of the global gradient norm that is added to the norm of one gradient.

The gradient of a key's bias is zero but for rounding, so that it has no relative error of its own.
"""

Gradients = dict[str, Tensor]


def parity(settings: Settings) -> Iterator[Case]:
    """Yield every family in each precision, eager and, on a GPU, compiled."""
    for name in PRESETS:
        for precision in TOLERANCES:
            if precision != "fp16" or settings.on_gpu:
                yield f"{name} {precision}", partial(examine_parity, settings, name, precision)
        if settings.on_gpu:
            yield f"{name} bf16 compiled", partial(examine_parity, settings, name, "bf16", compiled=True)


def examine_parity(settings: Settings, name: str, precision: str, *, compiled: bool = False) -> Values:
    """Return the errors of loss and gradients; passes if they are within the tolerance of the precision."""
    run = section_run(name, tiny=True)
    config, batch = without_dropout(run.model), random_batch(run, 4)
    expected_loss, expected = loss_and_gradients(config, batch, torch.device("cpu"))
    device = pick_device(settings.device)
    loss, gradients = loss_and_gradients(config, batch, device, DTYPES.get(precision), compiled=compiled)
    whole = float(torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in expected.values()])))
    errors = {
        key: float((gradients[key] - gradient).norm()) / (float(gradient.norm()) + FLOOR * whole)
        for key, gradient in expected.items()
    }
    worst = max(errors, key=lambda key: errors[key])
    loss_error = abs(loss - expected_loss) / expected_loss
    return {
        "passed": max(errors[worst], loss_error) <= TOLERANCES[precision], "loss": loss, "loss_error": loss_error,
        "gradient_error": errors[worst], "worst_gradient": worst, "tolerance": TOLERANCES[precision],
    }  # fmt: skip


def loss_and_gradients(
    config: ModelConfig, batch: Batch, device: torch.device, half: torch.dtype | None = None, *, compiled: bool = False
) -> tuple[float, Gradients]:
    """Return the loss and every gradient, float32 on the CPU; ``half``: data type of autocast."""
    model: Any = build(config, initial_weights(config.parameters(), 1), device).train()
    if compiled:
        compile_blocks(model)
    tokens, targets = tensors(batch, device)
    with torch.autocast(device.type, dtype=half) if half else nullcontext():
        loss = model.loss(tokens, targets)
    loss.backward()
    return float(loss.detach()), {name: parameter.grad.float().cpu() for name, parameter in model.named_parameters()}
