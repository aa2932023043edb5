"""Tests that the documentation site builds without warnings and that its reference is complete."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fabella
from fabella.cli.main import command_files
from fabella.models.registry import family_names
from fabella.run_config.files import known_keys, preset_names

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.needs("mkdocs")


@pytest.fixture(scope="module")
def pages() -> Any:
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    return reference.pages()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [shutil.which("mkdocs", path=Path(sys.executable).parent) or "mkdocs", "build", "--strict", "--quiet"]
    process = subprocess.run([*command, "--site-dir", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "site" / "reference" / "config.html").exists()


def test_every_page_is_in_the_navigation(pages: Any) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    names = [path.name for path in (ROOT / "docs").glob("*.md")] + list(pages)
    assert [name for name in names if name not in navigation] == []


def test_every_setting_is_in_the_reference(pages: Any) -> None:
    keys = {key for family in family_names() for key in known_keys(family)}
    assert sorted(key for key in keys if not is_described(key, pages["reference/config.md"])) == []


def is_described(key: str, page: str) -> bool:
    """Return whether the page has the setting, or says that the settings of its section are those of another one."""
    parents = [".".join(key.split(".")[:length]) for length in range(1, key.count(".") + 1)]
    same = any(f"# {parent}\n\nThe same settings as" in page for parent in parents)
    return f"`{key}`" in page or same or key.startswith("data.source.parts.")


def test_every_command_family_preset_and_function_is_in_the_reference(pages: Any) -> None:
    expected = [
        *(("reference/commands.md", f"## fabella {name}\n") for name in command_files()),
        *(("reference/families.md", f"## {name}\n") for name in family_names()),
        *(("reference/presets.md", f"## {name}\n") for name in preset_names()),
        *(("reference/python.md", f"## fabella.{name}\n") for name in fabella.__all__),
    ]
    assert [(page, text) for page, text in expected if text not in pages[page]] == []


def test_every_setting_and_every_field_of_a_request_has_a_meaning(pages: Any) -> None:
    rows = [row for page in ("reference/config.md", "reference/http-api.md") for row in pages[page].splitlines()]
    rows = [row for row in rows if row.startswith("| `") and row.count(" | ") == 3]
    assert len(rows) > 300
    assert [row for row in rows if row.endswith("|  |")] == []


def test_no_heading_of_the_settings_occurs_twice(pages: Any) -> None:
    headings = [line for line in pages["reference/config.md"].splitlines() if line.startswith("#")]
    assert sorted(headings) == sorted(set(headings))


def test_every_error_without_advice_is_in_a_class_with_general_advice(pages: Any) -> None:
    sections = pages["reference/errors.md"].split("\n## ")[1:]
    assert len(sections) > 10
    assert [
        text.split()[0] for text in sections if "|  |\n" in text and "Where nothing else is named" not in text
    ] == []


def test_a_message_and_its_advice_are_in_the_reference(pages: Any) -> None:
    assert "| Unknown command '…'. |" in pages["reference/errors.md"]
    assert "Resume from another checkpoint, or with a fresh optimizer" in pages["reference/errors.md"]
