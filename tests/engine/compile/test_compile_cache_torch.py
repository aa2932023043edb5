"""Compiled kernels are kept between runs, and half a kernel is never loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.engine.compile import compile_cache_torch
from fabella.engine.compile.compile_cache_torch import MARK, PLACE, use_compile_cache

DIES_BEFORE_ITS_FIRST_STEP = """
import os, pathlib
from fabella.engine.compile.compile_cache_torch import PLACE, use_compile_cache
kernels = use_compile_cache()
pathlib.Path(os.environ[PLACE], "half.so").touch()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kernels of a user who has never compiled anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(PLACE, "/somewhere/torchinductor_me")  # as PyTorch writes it down by itself
    return tmp_path / "cache" / "fabella" / "kernels"


def test_kernels_once_made_are_there_for_the_next_process(own: Path) -> None:
    kernels = use_compile_cache()
    (own / "0" / "whole.so").touch()
    kernels.mark_complete()
    kernels.mark_complete()
    assert os.environ[PLACE] == str(own / "0")
    use_compile_cache()
    assert (own / "0" / "whole.so").exists()


def test_a_path_with_spaces_is_none_that_pytorch_can_compile_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    use_compile_cache()
    assert os.environ[PLACE] == "/somewhere/torchinductor_me"
    assert not (tmp_path / "my cache").exists()


def test_what_a_killed_process_left_is_thrown_away(own: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES_BEFORE_ITS_FIRST_STEP])
    assert (own / "0" / "half.so").exists()
    use_compile_cache()
    assert os.environ[PLACE] == str(own / "0")
    assert [path.name.startswith(MARK) for path in (own / "0").iterdir()] == [True]


def test_where_others_compile_at_the_time_it_stays_and_another_folder_is_taken(own: Path) -> None:
    first = use_compile_cache()
    (own / "0" / f"{MARK}of-a-dead-one").touch()
    use_compile_cache()
    assert os.environ[PLACE] == str(own / "1")
    first.mark_complete()
    use_compile_cache()
    assert os.environ[PLACE] == str(own / "0")


@pytest.mark.parametrize("abandoned", [False, True])
def test_where_a_mark_is_taken_away_just_when_it_is_looked_at_it_counts_no_more(
    abandoned: bool, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, look = use_compile_cache(), compile_cache_torch._is_held
    (own / "0" / "kernel.so").touch()
    if abandoned:
        (own / "0" / f"{MARK}of-a-dead-one").touch()

    def after_its_first_step(mark: Path) -> bool | None:
        other.mark_complete()
        return look(mark)

    monkeypatch.setattr(compile_cache_torch, "_is_held", after_its_first_step)
    use_compile_cache()
    assert os.environ[PLACE] == str(own / "0")
    assert (own / "0" / "kernel.so").exists() is not abandoned


def test_a_folder_that_the_user_chose_stands(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, "/mine")
    use_compile_cache().mark_complete()
    assert os.environ[PLACE] == "/mine"
    assert not own.exists()


def test_without_a_home_that_can_be_written_to_pytorch_keeps_them(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    use_compile_cache().mark_complete()
    assert os.environ[PLACE] == "/somewhere/torchinductor_me"
