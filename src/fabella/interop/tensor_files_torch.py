"""Write and read safetensors files in any precision; numpy has no bfloat16, PyTorch does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fabella.errors import CheckpointError
from fabella.runs.safetensors_io import is_pickle
from fabella.storage import escaped, storage_errors
from fabella.storage.messages import escaped_path

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SCALE = ".scale"
"""Ending of the name of an int8 matrix's scales, one per row: weight = int8 value x scale."""


def save_tensors(path: Path, tensors: Mapping[str, NDArray[np.float32]], precision: str) -> None:
    """Write float32 arrays in a precision: float32, float16, bfloat16, or int8.

    With int8, matrices are rounded to integers of -127 to 127 with a scale per row; vectors stay float32.
    """
    converted: dict[str, torch.Tensor] = {}
    for name, array in tensors.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if precision != "int8":
            converted[name] = tensor.to(DTYPES[precision])
        elif tensor.dim() < 2:
            converted[name] = tensor
        else:
            scale = tensor.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            converted[name] = (tensor / scale).round().to(torch.int8)
            converted[name + SCALE] = scale
    save_file(converted, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a safetensors file in float32. The library checks the header against the file's size.

    Raises CheckpointError for a damaged file, a pickle, or a dtype that is no weight's.
    """
    name = escaped_path(path)
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        beginning = file.read(16)
    if is_pickle(beginning):
        raise CheckpointError(
            f"{name}: refusing pickle, which can execute code when it is loaded.",
            hint="Ask its author for a safetensors file.",
        )
    tensors: dict[str, NDArray[np.float32]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            stored: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise CheckpointError(
            f"{name} is not a valid safetensors file: {reason}.", hint="Get the file again: it may be truncated."
        ) from None
    for key, tensor in stored.items():
        if tensor.dtype == torch.int8 and key + SCALE in stored:
            scale = stored[key + SCALE]
            if scale.shape != (*tensor.shape[:1], 1, *tensor.shape[2:]):
                raise CheckpointError(
                    f"{name}: {escaped(key + SCALE)} does not have one value per row of {escaped(key)}.",
                    hint="Get the file again.",
                )
            tensors[key] = (tensor.float() * scale).numpy()
        elif tensor.dtype.is_floating_point and tensor.dtype.itemsize >= 2:
            tensors.setdefault(key, tensor.float().numpy())
        elif tensor.dtype not in (torch.bool, torch.uint8):  # saved attention masks are left out
            raise CheckpointError(
                f"{name}: {escaped(key)} is stored as {str(tensor.dtype).removeprefix('torch.')}.",
                hint="Supported are float32, float16 and bfloat16: get the model in one of them.",
            )
    return {key: array for key, array in tensors.items() if not (key.endswith(SCALE) and key[: -len(SCALE)] in stored)}
