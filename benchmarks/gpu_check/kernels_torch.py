"""Two parts of a step that decide about its speed: the loss with a large vocabulary, and MinGRU's recurrence."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check.material_torch import free_memory, median_seconds, relative_error
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.models.nn.loss_torch import linear_cross_entropy
from fabella.models.nn.recurrence_torch import recur

LOSS_SHAPES = {
    "minigpt-100m": (32768, 32768, 384), "gpt2-92m": (8192, 50257, 684), "tinystories-28m": (16384, 50257, 512),
}  # fmt: skip
"""Preset → tokens of a micro-batch, vocabulary, width."""
TINY_LOSS_SHAPES = {"tiny": (256, 509, 32)}
HALF_TOLERANCE, FLOAT_TOLERANCE = 3e-2, 1e-4
SCAN_SHAPE, TINY_SCAN_SHAPE = (102, 512, 512), (2, 33, 64)
"""[B T S] of mingru-17m."""
SCAN_BYTES = 2 + 2 + 4 + 4 + 2 + 2 + 4 + 2 + 2
"""Least bytes per element: gate and candidate (bf16) read, h (float32) written, and in the backward pass its gradient,
gate, candidate and h read, both gradients written."""

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss(settings: Settings) -> Iterator[Case]:
    """Yield the loss of every shape, and products with rows of its widths."""
    for name, shape in (TINY_LOSS_SHAPES if settings.tiny else LOSS_SHAPES).items():
        yield f"loss of {name}", partial(examine_loss, settings, shape)
        yield f"widths of {name}", partial(examine_widths, settings, shape)


def whole_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the loss from all logits at once."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), targets)


def examine_loss(settings: Settings, shape: tuple[int, int, int]) -> Values:
    """Return the times of Fabella's loss and of all logits at once; passes if loss and gradients agree in bf16."""
    tokens, vocab_size, dim = shape
    torch.manual_seed(1)
    hidden = torch.randn(tokens, dim, device=settings.device, requires_grad=True)
    weight = (torch.randn(vocab_size, dim, device=settings.device) * dim**-0.5).requires_grad_()
    targets = torch.randint(0, vocab_size, (tokens,), device=settings.device)

    def gradients(function: LossFunction) -> list[Tensor]:
        hidden.grad = weight.grad = None
        with torch.autocast(torch.device(settings.device).type, dtype=torch.bfloat16):
            value = function(hidden, weight, targets)
        value.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return [value.detach(), hidden.grad, weight.grad]

    functions: dict[str, LossFunction] = {"chunks": linear_cross_entropy, "whole_logits": whole_logits}
    found, expected = gradients(linear_cross_entropy), gradients(whole_logits)
    errors = [relative_error(actual, reference) for actual, reference in zip(found, expected, strict=True)]
    del found, expected
    if settings.on_gpu:
        functions["whole_logits_compiled"] = torch.compile(whole_logits)
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    for name, function in functions.items():
        seconds[name] = median_seconds(settings, partial(gradients, function), repeats=5)
        hidden.grad = weight.grad = None
        free_memory(settings)
        if settings.on_gpu:
            before = torch.cuda.memory_allocated()
            gradients(function)
            memory[name] = torch.cuda.max_memory_allocated() - before
    return {"passed": max(errors) <= HALF_TOLERANCE, "errors": errors, "seconds": seconds, "extra_bytes": memory}


def examine_widths(settings: Settings, shape: tuple[int, int, int]) -> Values:
    """Return the FLOP/s of the head's products as they are and with sizes that are multiples of 64."""
    tokens, vocab_size, dim = shape
    speeds: dict[str, float] = {}
    for width in (vocab_size, -(-vocab_size // 64) * 64):
        rows = min(tokens, 2**27 // vocab_size)
        sizes = ((rows, width), (width, dim), (rows, dim))
        gradient, weight, hidden = (
            torch.randn(size, device=settings.device, dtype=torch.bfloat16) for size in sizes
        )  # fmt: skip
        flops = 2 * rows * width * dim
        for label, work in {
            "hidden gradient": lambda g=gradient, w=weight: g @ w,
            "weight gradient": lambda g=gradient, h=hidden: g.T @ h,
        }.items():
            speeds[f"{label}, rows of {width}"] = flops / median_seconds(settings, work, repeats=5)
    for width in (dim, -(-dim // 64) * 64):
        x, weight = (torch.randn(n, width, device=settings.device, dtype=torch.bfloat16) for n in (tokens, width))
        seconds = median_seconds(settings, lambda x=x, w=weight: x @ w.T)
        speeds[f"block, dim {width}"] = 2 * tokens * width * width / seconds
    return {"passed": all(math.isfinite(speed) for speed in speeds.values()), "flops_per_second": speeds}


def scan(settings: Settings) -> Iterator[Case]:
    """Yield the accuracy of the recurrence, then its speed."""
    yield "accuracy", partial(examine_scan_accuracy, settings)
    yield "speed", partial(examine_scan_speed, settings)


def scan_inputs(settings: Settings, shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Return gate, candidate and the state before the first position."""
    torch.manual_seed(1)
    gate, candidate = (torch.randn(shape, device=settings.device).to(dtype).requires_grad_() for _ in range(2))
    return [gate, candidate, torch.randn(shape[0], shape[2], device=settings.device, requires_grad=True)]


def step_by_step(gate: Tensor, candidate: Tensor, initial: Tensor) -> Tensor:
    """Return all states of the recurrence, one position after the other."""
    z, towards, states = gate.sigmoid(), torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid()), [initial]
    for position in range(gate.shape[1]):
        states.append(states[-1] + z[:, position] * (towards[:, position] - states[-1]))
    return torch.stack(states[1:], 1)


def examine_scan_accuracy(settings: Settings) -> Values:
    """Compare states and gradients with a recurrence in float64, at a length of 512; passes within 1e-4."""
    shape = TINY_SCAN_SHAPE if settings.tiny else (2, 512, 64)
    inputs = scan_inputs(settings, shape, torch.float32)
    wide = [tensor.detach().double().cpu().requires_grad_() for tensor in inputs]
    upstream = torch.randn(shape)
    results = []
    for function, arguments in ((recur, inputs), (step_by_step, wide)):
        states = function(*arguments)
        states.backward(upstream.to(states))
        results.append([states.detach().cpu(), *(tensor.grad.cpu() for tensor in arguments if tensor.grad is not None)])
    errors = [relative_error(actual, expected) for actual, expected in zip(*results, strict=True)]
    return {"passed": len(errors) == 4 and max(errors) <= FLOAT_TOLERANCE, "errors": errors}


def examine_scan_speed(settings: Settings) -> Values:
    """Return the time of both passes, and the share of the memory bandwidth that they need at least."""
    shape = TINY_SCAN_SHAPE if settings.tiny else SCAN_SHAPE
    inputs = scan_inputs(settings, shape, torch.bfloat16)
    upstream = torch.randn(shape, device=settings.device)
    source = torch.empty(2**20 if settings.tiny else 2**28, device=settings.device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / median_seconds(settings, lambda: target.copy_(source))
    seconds = median_seconds(settings, lambda: recur(*inputs).backward(upstream), repeats=5)
    least = math.prod(shape) * SCAN_BYTES / bandwidth
    return {
        "passed": bool(recur(*inputs).isfinite().all()), "seconds": seconds, "least_seconds": least,
        "share_of_bandwidth": least / seconds,
    }  # fmt: skip
