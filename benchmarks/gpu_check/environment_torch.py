"""What the machine is and can do: versions, PyTorch's interfaces, speed of products, memory and attention."""

import importlib
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check.material_torch import PRESETS, matmul_flops, median_seconds, relative_error, section_run
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.models.nn.attention_torch import attend
from fabella.runs.environment import environment as versions

MIN_TORCH = (2, 11)
INTERFACES = (
    "torch.accelerator.is_available", "torch.compiler.disable", "torch.get_autocast_dtype", "torch.OutOfMemoryError",
    "torch.distributed.fsdp.fully_shard", "torch.distributed.fsdp.register_fsdp_forward_method",
    "torch.distributed.tensor.distribute_tensor", "torch.nn.functional.rms_norm",
    "torch.nn.utils.clip_grads_with_norm_", "torch.cuda.set_sync_debug_mode",
    "torch.utils.deterministic.fill_uninitialized_memory", "torch._inductor.config.deterministic",
)  # fmt: skip
"""Attributes of PyTorch that Fabella and this check use and that some version lacked."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
ROUNDING = {"bf16": 1e-2, "fp16": 2e-3, "float32": 1e-5, "tf32": 2e-3}
"""Largest relative error of a product of random matrices, a few times the rounding of its operands."""
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
)  # fmt: skip
KERNEL_WORDS = ("flash", "fmha", "attention", "cudnn", "softmax")


def missing_device(device: str) -> str:
    """Return one sentence that says why ``device`` cannot be examined and what to do; empty if it can."""
    fix = "or try the check itself with: python -m benchmarks.gpu_check --device cpu --tiny"
    if device == "cpu":
        return ""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA: install a CUDA build (docs/install.md), {fix}"
    if not torch.cuda.is_available():
        return f"PyTorch finds no NVIDIA GPU: run this on a machine with a GPU and its driver (nvidia-smi), {fix}"
    count = torch.cuda.device_count()
    if device.partition(":")[2] and int(device.partition(":")[2]) >= count:
        return f"There is no device {device}: PyTorch sees {count} GPU(s), so use cuda:0 to cuda:{count - 1}, {fix}"
    return ""


def torch_gpus() -> int:
    """Return the number of GPUs that PyTorch sees."""
    return torch.cuda.device_count()


def environment(settings: Settings) -> Iterator[Case]:
    """Yield versions and interfaces, then the speed of products, of memory and of attention."""
    yield "versions", partial(examine_versions, settings)
    yield "interfaces", examine_interfaces
    for name in DTYPES:
        yield f"products in {name}", partial(examine_products, settings, name)
    if settings.on_gpu:
        yield "products in tf32", partial(examine_products, settings, "tf32")
    yield "copies of memory", partial(examine_copies, settings)
    for name in PRESETS:
        if hasattr(section_run(name, tiny=settings.tiny).model, "heads"):
            yield f"attention of {name}", partial(examine_attention, settings, name)


def examine_versions(settings: Settings) -> Values:
    """Return the versions and the GPU; passes if PyTorch is new enough."""
    found: Values = {**versions(), "torch": torch.__version__}
    if settings.on_gpu:
        gpu = torch.cuda.get_device_properties(settings.device)
        found |= {
            "gpu": gpu.name, "gpu_memory_bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}",
            "gpus": torch.cuda.device_count(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    if settings.on_gpu and shutil.which("nvidia-smi"):
        query = "--query-gpu=clocks.sm,clocks.max.sm,power.limit,driver_version"
        done = subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, timeout=30)
        found["nvidia_smi"] = done.stdout.splitlines()
    release = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
    return {"passed": release >= MIN_TORCH, **found}


def examine_interfaces() -> Values:
    """Return the interfaces that this PyTorch lacks; passes if it has all."""
    missing = [path for path in INTERFACES if not _exists(path)]
    return {"passed": not missing, "missing": missing}


def _exists(path: str) -> bool:
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):  # as much of the path as is a module, then its attributes
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[length:])
    return False


def examine_products(settings: Settings, name: str) -> Values:
    """Return the FLOP/s of matrix products; passes if their error is that of the data type."""
    dtype, before = DTYPES.get(name, torch.float32), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        a, b = (torch.randn(256, 256, device=settings.device) for _ in range(2))
        error = relative_error((a.to(dtype) @ b.to(dtype)).cpu(), a.double().cpu() @ b.double().cpu())
        flops = matmul_flops(settings, dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    return {"passed": error <= ROUNDING[name], "flops_per_second": flops, "relative_error": error}


def examine_copies(settings: Settings) -> Values:
    """Return the bytes that are read and written per second by a copy; passes if the copy is equal."""
    source = torch.randn(2**20 if settings.tiny else 2**28, device=settings.device)
    target = torch.empty_like(source)
    seconds = median_seconds(settings, lambda: target.copy_(source))
    return {"passed": torch.equal(source, target), "bytes_per_second": 2 * source.nbytes / seconds}


def examine_attention(settings: Settings, name: str) -> Values:
    """Return the kernel that a preset's attention gets, its speed and that of every other kernel.

    Passes if the result is that of float32, and if a GPU does not get the kernel that stores all scores.
    """
    run = section_run(name, tiny=settings.tiny)
    model: Any = run.model
    heads, kv_heads, time = model.heads, getattr(model, "kv_heads", model.heads), run.data.sequences.length
    head_dim, rows = model.dim // heads, run.training.micro_batch_size
    query, key, value = (
        torch.randn(rows, time, count, head_dim, device=settings.device, dtype=torch.bfloat16).transpose(1, 2)
        for count in (heads, kv_heads, kv_heads)
    )
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    flops = 3.5 * 2 * 2 * rows * heads * time * time / 2 * head_dim  # forward pass once, backward pass 2.5 times
    few = [tensor[:2].detach().float() for tensor in inputs]
    error = relative_error(attend(*inputs, None)[:2].detach(), attend(few[0], few[1], few[2], None))
    work = partial(_forward_backward, lambda: attend(*inputs, None))
    speeds = {"chosen": flops / median_seconds(settings, work, repeats=5)}
    reasons: dict[str, str] = {}
    for backend in BACKENDS if settings.on_gpu else (SDPBackend.MATH,):
        try:
            speeds[backend.name] = flops / median_seconds(settings, partial(_by_backend, inputs, backend), repeats=5)
        except RuntimeError as error_of_backend:  # this kernel does not take the shape, or this machine
            reasons[backend.name] = str(error_of_backend).splitlines()[0]
    kernels = _kernel_names(work) if settings.on_gpu else []
    fused = not settings.on_gpu or any("softmax" not in kernel for kernel in kernels)
    return {
        "passed": error <= ROUNDING["bf16"] * 2 and fused and all(map(math.isfinite, speeds.values())),
        "shape": [rows, heads, kv_heads, time, head_dim], "relative_error": error, "kernels": kernels,
        "flops_per_second": speeds, "not_available": reasons,
    }  # fmt: skip


def _by_backend(inputs: list[Tensor], backend: SDPBackend) -> None:
    query, key, value = inputs
    shared = query.shape[1] != key.shape[1]
    with sdpa_kernel(backend):
        _forward_backward(lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared))


def _forward_backward(function: Callable[[], Tensor]) -> None:
    function().sum().backward()


def _kernel_names(work: Callable[[], None]) -> list[str]:
    """Return the names of the attention kernels that ``work`` launches on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    names = {event.key[:90] for event in profile.key_averages()}
    return sorted(name for name in names if any(word in name.lower() for word in KERNEL_WORDS))[:8]
