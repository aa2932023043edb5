"""What every test shares: one thread each, examples that repeat, no network, and the marks `gpu` and `faults`."""

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Before numpy or torch is loaded: the tests run side by side, and more threads than cores only slow each other down.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Tests compile many steps and take few: what XLA would gain in speed it never gets back. Nothing is kept between runs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Started in the background of a script, a process ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MPLBACKEND"] = "agg"  # a test must not need a screen

NIGHT = 4 * 3600
"""Seconds that a test of tier N of the fault matrix may take"""

# A failure must come back at the next run, and a slow machine is no failure.
settings.register_profile("fabella", derandomize=True, deadline=None, database=None)
settings.load_profile("fabella")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tier N of the fault matrix unless it was asked for, and what needs a GPU where there is none."""
    if "faults" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("faults")])
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.timeout(NIGHT))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch finds none here"))


def has_gpu() -> bool:
    import torch  # only where a test that needs a GPU was collected: loading torch takes a second

    return torch.cuda.is_available()


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine, so that no test passes thanks to the network."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_connect)
        yield
