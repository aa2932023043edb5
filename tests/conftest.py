"""Shared setup of all tests: one thread each, repeatable examples, no network, skips for missing optional packages."""

import ast
import gc
import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.fault_cases import record_fault_cases
from tests.slow_first import slow_first

# Before numpy or torch is imported: tests run in parallel, and more threads than cores slow each other down.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Tests compile many training steps and run few of them: XLA's optimizations cost more than they gain.
XLA_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if next((d.version for d in distributions(name="jaxlib")), "").startswith("0.10."):
    # Halves the time to compile. An XLA that does not know one of these flags would abort.
    XLA_FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))
# The measured choice differs between machines, and results must not.
os.environ.setdefault("FABELLA_MATMUL", "default")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Processes that tests start would compile the whole package each time where writing bytecode is switched off.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A process started in the background of a shell script ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MPLBACKEND"] = "agg"  # a test must not need a screen

LONG_TEST_SECONDS = 4 * 3600
"""Time limit of a test of the long fault matrix."""
HANDLED_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]
OPTIONAL_PACKAGES = ("accelerate", "gguf", "jax", "mkdocs", "transformers")
"""Packages that `make test-light` does not install."""

# A failure must be reproducible, and a slow machine must not fail a test.
settings.register_profile("fabella", derandomize=True, deadline=None, database=None)
settings.load_profile("fabella")

MISSING = {name for name in OPTIONAL_PACKAGES if importlib.util.find_spec(name) is None}


class SkippedModule(pytest.Module):
    """A test file that imports a package that is not installed."""

    missing = ""

    def collect(self) -> Any:
        """Skip the whole file and name the package."""
        pytest.skip(f"needs {self.missing}, which is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Skip test files that import a missing optional package, directly or by a `*_jax.py` file of ours."""
    needed = MISSING & imported_packages(module_path) if MISSING else set()
    if not needed:
        return None
    module = SkippedModule.from_parent(parent, path=module_path)
    module.missing = min(needed)
    return module


def imported_packages(file: Path) -> set[str]:
    """Return the top-level packages that a file imports; ``jax`` for our files with that suffix."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {"jax" if name.endswith("_jax") else name.split(".")[0] for name in names}


@pytest.hookimpl(trylast=True)  # after pytest has grouped the tests by their fixtures
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select, skip and order the tests.

    Deselect the long fault tests unless requested; skip tests that need a GPU or a package that is missing; give each
    parallel worker a part that begins with slow tests.
    """
    record_fault_cases(items)
    if "faults" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("faults")])
        items[:] = [item for item in items if not item.get_closest_marker("faults")]
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.timeout(LONG_TEST_SECONDS))
        if needed := MISSING & needed_packages(item):
            item.add_marker(pytest.mark.skip(reason=f"needs {min(needed)}, which is not installed"))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch finds none here"))
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        items[:] = slow_first(
            items, workers, lambda item: item.path, lambda item: bool(item.get_closest_marker("slow"))
        )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect thousands of tests without garbage collections, and exempt them from later ones: both take long."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def is_slow(item: pytest.Item) -> bool:
    """Return whether a test is marked as slow."""
    return item.get_closest_marker("slow") is not None


def needed_packages(item: pytest.Item) -> set[str]:
    """Return the optional packages that a test needs: those of `needs`, and jax if a parameter is that engine."""
    marker = item.get_closest_marker("needs")
    parameters = getattr(item, "callspec", None)
    uses_jax = parameters is not None and any(isinstance(v, str) and v == "jax" for v in parameters.params.values())
    return {*(marker.args if marker else ()), *(("jax",) if uses_jax else ())}


def has_gpu() -> bool:
    """Return whether torch finds a GPU; called only if a test needs one, since loading torch takes a second."""
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def same_signal_handlers() -> Iterator[None]:
    """Fail a test that leaves a signal handler changed: a later test of the same process would fail for it."""
    before = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    yield
    changed = [number for number, handler in before.items() if signal.getsignal(number) != handler]
    for number in changed:
        signal.signal(number, before[number])
    assert not changed, f"the test left the handlers of {changed} changed"


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
