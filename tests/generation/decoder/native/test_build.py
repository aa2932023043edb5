"""The compiled step is made once on a machine, whole or not at all, and telling goes on without it."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from fabella.generation.decoder.native.build import SOURCES, NativeLibrary, build_library, step


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user who has never told a text."""
    if step().library is None:
        pytest.skip(step().remark)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fabella" / "step"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that gives what the real one made before, and counts how often it was asked."""
    library, calls, ready = step().library, tmp_path / "calls", tmp_path / "ready.so"
    assert library
    shutil.copy(library._name, ready)
    compiler(tmp_path, monkeypatch, f'echo called >> {calls}; while [ "$1" != -o ]; do shift; done; cp {ready} "$2"')
    return calls


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))


def works(found: NativeLibrary) -> bool:
    return found.library is not None and found.library.fabella_has(0) == 1


def test_it_is_made_once_and_this_is_told(cache: Path, calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert works(build_library())
    assert "Compiling what tells stories fast, once on this machine" in capsys.readouterr().err
    assert works(build_library())
    assert not capsys.readouterr().err
    assert len(calls.read_text().splitlines()) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("left", [b"", b"no library", b"\x7fELF"])
def test_a_damaged_one_is_made_anew(
    cache: Path, calls: Path, left: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_library()
    whole = next(cache.iterdir())
    # In a folder of its own: the system takes a library that is in use for the one of its name.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "fabella" / "step" / whole.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(left)
    assert works(build_library())
    assert len(calls.read_text().splitlines()) == 2
    assert damaged.read_bytes() == whole.read_bytes()


def test_another_compiler_makes_another_one(cache: Path, calls: Path) -> None:
    build_library()
    os.utime(calls.parent / "g++", ns=(1, 1))
    build_library()
    assert len(list(cache.iterdir())) == 2


def test_without_a_compiler_telling_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build_library() == NativeLibrary(
        None,
        "Texts are told without the compiled step, more slowly: "
        "there is no C++ compiler on this machine (install g++).",
    )


def test_a_compiler_that_fails_is_told_in_a_line(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, "echo 'no space left' >&2; echo more >&2; exit 3")
    assert build_library().remark.endswith("g++ ended with code 3: no space left.")
    assert not cache.exists()


def test_what_cannot_be_loaded_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path, monkeypatch, 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"')
    found = build_library()
    assert found.library is None
    assert found.remark.endswith("g++ made cannot be loaded.")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_told(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    found = build_library()
    assert works(found)
    assert found.remark.startswith("The compiled step of telling cannot be kept, and is made anew each time: ")


def test_the_sources_travel_with_the_package() -> None:
    assert all(source.is_file() for source in SOURCES)
