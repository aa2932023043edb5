"""How much memory a step takes with PyTorch: estimated without taking it, and looked up afterwards."""

import importlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fabella.engine.compile.gradient_checkpointing_torch import recompute_blocks
from fabella.engine.device_torch import pick_device, resolve_precision
from fabella.models.nn.loss_torch import LOGITS_ON_CPU, LOGITS_ON_GPU, ROWS
from fabella.run_config.run import RunConfig


def activation_bytes(run: RunConfig, windows: int, device: str = "auto") -> int:
    """What the forward pass of ``windows`` windows keeps for the way back, from the blocks up to the heads.

    Found by going through the network with tensors that have a shape and no content, so that it costs neither memory
    nor much time (about a second), for any family, and knows of ``training.gradient_checkpointing``.
    """
    module = importlib.import_module(f"fabella.models.{run.model.family}_torch")
    precision = resolve_precision(run.training.precision, pick_device(device))
    half = precision.compute != torch.float32
    with FakeTensorMode(), _Held() as held:
        model: Any = module.Model(run.model).train()
        if run.training.gradient_checkpointing == "blocks":
            recompute_blocks(model)
        tokens = torch.zeros(windows, run.data.sequences.length, dtype=torch.int64)
        before = held.bytes()
        with torch.autocast("cpu", dtype=precision.compute) if half else nullcontext():
            # ``hidden_states`` is everything before the heads; a family without it computes its logits
            outputs = getattr(model, "hidden_states", model.forward)(tokens)
        after = held.bytes()
        del outputs
    return after - before


class _Held(TorchDispatchMode):
    """Keeps account of the results of every operation that are still held by somebody."""

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
        """Of everything that is held now."""
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}
        return sum(size for _, size in self._storages.values())


def loss_bytes(run: RunConfig, windows: int, device: str = "auto") -> int:
    """One chunk of logits; they and their gradient are the same memory. See nn_loss_torch.py."""
    on_cpu = pick_device(device).type == "cpu"
    vocab_size = run.model.vocab_size
    rows = max(ROWS, (LOGITS_ON_CPU if on_cpu else LOGITS_ON_GPU) // vocab_size)
    return min(rows, windows * run.data.sequences.length) * vocab_size * 4


def device_memory(device: str) -> tuple[int, int] | None:
    """Bytes of a GPU's memory, and those of them that are free; None where the device uses the machine's memory."""
    picked = pick_device(device)
    if picked.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(picked)
    return total, free


def limit_memory(device: str, limit: int) -> None:
    """Let this process take ``limit`` bytes of a GPU's memory at most; more raises torch's OutOfMemoryError."""
    picked = pick_device(device)
    if picked.type == "cuda":
        total = torch.cuda.get_device_properties(picked).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), picked)


def peak_memory(device: str) -> int | None:
    """The most bytes of GPU memory that this process had reserved at once; None where there is no such memory."""
    picked = pick_device(device)
    return torch.cuda.max_memory_reserved(picked) if picked.type == "cuda" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
