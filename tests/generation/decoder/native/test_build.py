"""Tests that the native decoder is compiled once per machine, atomically, and that generation works without it."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from fabella.generation.decoder.native.build import SOURCES, build_library, library
from fabella.native.build import NativeLibrary


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache directory of a user who has never generated a text."""
    if library().library is None:
        pytest.skip(library().warning)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fabella" / "native"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the compiler by a script that copies a compiled library; return the file that logs its calls."""
    compiled, calls, ready = library().library, tmp_path / "calls", tmp_path / "ready.so"
    assert compiled
    shutil.copy(compiled._name, ready)
    install_compiler(
        tmp_path, monkeypatch, f'echo called >> {calls}; while [ "$1" != -o ]; do shift; done; cp {ready} "$2"'
    )
    return calls


def install_compiler(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = directory / "g++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))


def works(built: NativeLibrary) -> bool:
    return built.library is not None and built.library.fabella_supports_dtype(0) == 1


def test_the_library_is_compiled_once_with_a_message(
    cache: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert works(build_library())
    assert "Compiling the native decoder (once per machine, a few seconds)" in capsys.readouterr().err
    assert works(build_library())
    assert not capsys.readouterr().err
    assert len(calls.read_text().splitlines()) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF"])
def test_a_damaged_library_is_compiled_again(
    cache: Path, calls: Path, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_library()
    intact = next(cache.iterdir())
    # In another directory: the loader reuses a loaded library of the same path.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "fabella" / "native" / intact.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(content)
    assert works(build_library())
    assert len(calls.read_text().splitlines()) == 2
    assert damaged.read_bytes() == intact.read_bytes()


def test_another_compiler_builds_another_library(cache: Path, calls: Path) -> None:
    build_library()
    os.utime(calls.parent / "g++", ns=(1, 1))
    build_library()
    assert len(list(cache.iterdir())) == 2


def test_without_a_compiler_there_is_a_warning_and_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build_library() == NativeLibrary(
        None,
        "Generation is slower without the native decoder: this machine has no C++ compiler (install g++).",
    )


def test_the_warning_has_the_first_line_of_a_compiler_error(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_compiler(tmp_path, monkeypatch, "echo 'no space left' >&2; echo more >&2; exit 3")
    assert build_library().warning.endswith("g++ exited with code 3: no space left.")
    assert not cache.exists()


def test_a_library_that_cannot_be_loaded_is_not_saved(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_compiler(tmp_path, monkeypatch, 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"')
    built = build_library()
    assert built.library is None
    assert built.warning.endswith("g++ cannot be loaded.")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_gives_a_warning(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a directory should be")
    built = build_library()
    assert works(built)
    assert built.warning.startswith("Cannot save the native decoder; it is compiled at every start: ")


def test_the_sources_are_in_the_package() -> None:
    assert all(source.is_file() for source in SOURCES)
