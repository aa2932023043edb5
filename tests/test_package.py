"""Tests that the wheel has every file that the package reads."""

import json
import tomllib

import pytest

from tests.source_tree import PACKAGE, REPOSITORY


def test_package_data_has_every_file_that_is_not_python() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns: list[str] = settings["tool"]["setuptools"]["package-data"]["fabella"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    needed = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    }
    assert len(needed) > 30, "templates, presets, pages and C++ sources"
    assert sorted(needed - packaged) == []


def test_the_page_shows_the_measured_installation() -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow: make test installs it")
    from benchmarks import installation

    measured = json.loads(installation.RESULTS.read_text(encoding="utf-8"))
    assert set(measured["installed"]) == {"core", "all", *installation.USES}
    assert installation.page_part(measured) in installation.PAGE.read_text(encoding="utf-8")
