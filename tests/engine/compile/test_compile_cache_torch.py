"""Tests that compiled kernels are reused by later processes, and that an incomplete kernel is never loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.engine.compile import compile_cache_torch
from fabella.engine.compile.compile_cache_torch import MARK, PLACE, use_compile_cache

KILLED_BEFORE_FIRST_STEP = """
import os, pathlib
from fabella.engine.compile.compile_cache_torch import PLACE, use_compile_cache
kernels = use_compile_cache()
pathlib.Path(os.environ[PLACE], "half.so").touch()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def kernel_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the kernel folder of a user who has never compiled anything; it does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(PLACE, "/somewhere/torchinductor_me")  # PyTorch sets it on import
    return tmp_path / "cache" / "fabella" / "kernels"


def test_the_next_process_finds_the_kernels(kernel_dir: Path) -> None:
    kernels = use_compile_cache()
    (kernel_dir / "0" / "whole.so").touch()
    kernels.mark_complete()
    kernels.mark_complete()
    assert os.environ[PLACE] == str(kernel_dir / "0")
    use_compile_cache()
    assert (kernel_dir / "0" / "whole.so").exists()


def test_a_path_with_spaces_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    use_compile_cache()
    assert os.environ[PLACE] == "/somewhere/torchinductor_me"
    assert not (tmp_path / "my cache").exists()


def test_kernels_of_a_killed_process_are_removed(kernel_dir: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_BEFORE_FIRST_STEP])
    assert (kernel_dir / "0" / "half.so").exists()
    use_compile_cache()
    assert os.environ[PLACE] == str(kernel_dir / "0")
    assert [path.name.startswith(MARK) for path in (kernel_dir / "0").iterdir()] == [True]


def test_a_folder_in_use_is_kept_and_another_one_is_used(kernel_dir: Path) -> None:
    first = use_compile_cache()
    (kernel_dir / "0" / f"{MARK}of-a-dead-process").touch()
    use_compile_cache()
    assert os.environ[PLACE] == str(kernel_dir / "1")
    first.mark_complete()
    use_compile_cache()
    assert os.environ[PLACE] == str(kernel_dir / "0")


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_mark_that_is_removed_during_the_check_is_ignored(
    abandoned: bool, kernel_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, is_held = use_compile_cache(), compile_cache_torch._is_held
    (kernel_dir / "0" / "kernel.so").touch()
    if abandoned:
        (kernel_dir / "0" / f"{MARK}of-a-dead-process").touch()

    def complete_then_check(mark: Path) -> bool | None:
        other.mark_complete()
        return is_held(mark)

    monkeypatch.setattr(compile_cache_torch, "_is_held", complete_then_check)
    use_compile_cache()
    assert os.environ[PLACE] == str(kernel_dir / "0")
    assert (kernel_dir / "0" / "kernel.so").exists() is not abandoned


def test_a_folder_set_by_the_user_is_not_changed(kernel_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, "/mine")
    use_compile_cache().mark_complete()
    assert os.environ[PLACE] == "/mine"
    assert not kernel_dir.exists()


def test_without_a_writable_cache_the_folder_of_pytorch_is_used(
    kernel_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    use_compile_cache().mark_complete()
    assert os.environ[PLACE] == "/somewhere/torchinductor_me"
