"""The library of the training kernels, for all tests of them."""

import ctypes

import pytest

from fabella.models.nn.kernels.library import kernel_library


@pytest.fixture
def library() -> ctypes.CDLL:
    built = kernel_library()
    if built.library is None:
        pytest.skip(built.warning or "switched off")
    return built.library
