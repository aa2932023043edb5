"""Memory of a training step with PyTorch: estimated without allocating it, and measured."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fabella.engine.compile.gradient_checkpointing_torch import checkpoint_blocks
from fabella.engine.cpu import allocator
from fabella.engine.device_torch import pick_device, resolve_precision
from fabella.models.nn.loss_torch import LOGITS_ON_CPU, LOGITS_ON_GPU, ROWS
from fabella.models.registry import network_module
from fabella.run_config.run import RunConfig


def activation_bytes(run: RunConfig, sequences: int, device: str = "auto") -> int:
    """Return the bytes of the activations of ``sequences`` sequences, from the blocks to the output heads.

    Traced with fake tensors, which have a shape and no data: it takes no memory and about a second, works for any
    family, and respects ``training.gradient_checkpointing``.
    """
    module = network_module(run.model, "torch")
    precision = resolve_precision(run.training.precision, pick_device(device), run.model.parameters())
    half = precision.compute != torch.float32
    with FakeTensorMode(), _LiveStorages() as held:
        model: Any = module.Model(run.model).train()
        if run.training.gradient_checkpointing == "blocks":
            checkpoint_blocks(model)
        tokens = torch.zeros(sequences, run.data.sequences.length, dtype=torch.int64)
        before = held.bytes()
        with torch.autocast("cpu", dtype=precision.compute) if half else nullcontext():
            # ``hidden_states`` is everything before the heads; a family without it computes its logits
            outputs = getattr(model, "hidden_states", model.forward)(tokens)
        after = held.bytes()
        del outputs
    return after - before


class _LiveStorages(TorchDispatchMode):
    """Track the results of every operation that are still referenced."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # pyright: ignore[reportPrivateUsage]
        return result

    def bytes(self) -> int:
        """Return the size of all storages that are alive."""
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}
        return sum(size for _, size in self._storages.values())


def loss_bytes(run: RunConfig, sequences: int, device: str = "auto") -> int:
    """Return the bytes of one chunk of logits, whose gradient shares its memory (models/nn/loss_torch.py)."""
    on_cpu = pick_device(device).type == "cpu"
    vocab_size = run.model.vocab_size
    rows = max(ROWS, (LOGITS_ON_CPU if on_cpu else LOGITS_ON_GPU) // vocab_size)
    return min(rows, sequences * run.data.sequences.length) * vocab_size * 4


def kept_bytes(run: RunConfig, needed: int, device: str = "auto") -> int:
    """Return the most bytes of freed memory that a training keeps: with batches of many lengths, on a CPU."""
    many_lengths = run.data.sequences.kind == "padded"
    return allocator.kept_bytes(needed) if many_lengths and pick_device(device).type == "cpu" else 0


def device_memory(device: str) -> tuple[int, int] | None:
    """Return total and free bytes of a GPU's memory; None for a device that uses the machine's memory."""
    picked = pick_device(device)
    if picked.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(picked)
    return total, free


def limit_memory(device: str, limit: int) -> None:
    """Limit this process to ``limit`` bytes of a GPU's memory; more raises torch's OutOfMemoryError."""
    picked = pick_device(device)
    if picked.type == "cuda":
        total = torch.cuda.get_device_properties(picked).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), picked)


def peak_memory(device: str) -> int | None:
    """Return the peak of this process's reserved GPU memory in bytes; None for any other device."""
    picked = pick_device(device)
    return torch.cuda.max_memory_reserved(picked) if picked.type == "cuda" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory has run out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
