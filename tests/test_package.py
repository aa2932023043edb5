"""Tests that the wheel has every file that the package reads."""

import json
import re
import tomllib

import pytest

import fabella
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


def test_one_version_is_named_everywhere() -> None:
    """The newest version of the change log is that of the package, of the citation and of the commands that install."""
    texts = {
        name: (REPOSITORY / name).read_text(encoding="utf-8")
        for name in ("CHANGELOG.md", "CITATION.cff", "README.md", "docs/install.md", "docs/questions.md")
    }
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", texts["CHANGELOG.md"], re.MULTILINE)
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert released[0] == fabella.__version__ == settings["project"]["version"]
    assert f"\nversion: {fabella.__version__}\n" in texts["CITATION.cff"]
    assert f"version = {{{fabella.__version__}}}" in texts["docs/questions.md"]
    notebooks = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs" / "notebooks").glob("*.ipynb")]
    wheels = [name for text in [*texts.values(), *notebooks] for name in re.findall(r"fabella-([\d.]+)-py3", text)]
    assert len(wheels) > 5
    assert set(wheels) == {fabella.__version__}
