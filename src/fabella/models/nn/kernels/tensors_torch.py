"""Which tensors the training kernels take, and how they are passed."""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fabella.models.nn.kernels.library import active_library

PLAIN = (Tensor, nn.Parameter)
DTYPES = (torch.float32, torch.bfloat16)


def kernels_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """Return the library if a training step with kernels is running and takes these tensors, else None.

    It takes plain dense CPU tensors of one data type, float32 or bfloat16, in eager training with gradients.
    """
    if torch.compiler.is_compiling():
        return None
    library = active_library()
    if library is None or not torch.is_grad_enabled():
        return None
    first = tensors[0].dtype
    suitable = first in DTYPES and all(
        type(tensor) in PLAIN and tensor.device.type == "cpu" and tensor.dtype == first and tensor.numel() > 0
        for tensor in tensors
    )
    return library if suitable else None


def has_hooks(module: nn.Module) -> bool:
    """Return whether hooks of the user expect a call of the module."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
    return any(hooks)


def dtype_number(dtype: torch.dtype) -> int:
    """Return the number by which the library knows the data type."""
    return DTYPES.index(dtype)


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return the address of the first element; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def int64_array(values: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    """Return the values as a C array."""
    return (ctypes.c_int64 * len(values))(*values)


def dense_rows(tensor: Tensor) -> Tensor:
    """Return the tensor with a contiguous last dimension; itself if it has one."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def like_rows(tensor: Float[Tensor, "B H T E"]) -> Float[Tensor, "B H T E"]:
    """Return an empty tensor of this shape, in memory [B T H E], as the linear layers around an attention need it."""
    batch, heads, time, head_dim = tensor.shape
    return tensor.new_empty(batch, time, heads, head_dim).transpose(1, 2)
