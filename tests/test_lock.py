"""Tests of requirements.lock: every package of all extras, with hashes, at the versions that the tests run with."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PIN = re.compile(r"^([a-z0-9-]+)==([^\s;]+)", re.MULTILINE)


def locked() -> dict[str, str]:
    """Return package → its entry in the lock file."""
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    return {PIN.match(entry)[1]: entry for entry in entries}  # pyright: ignore[reportOptionalSubscript]


def required() -> set[str]:
    """Return the names of all packages that pyproject.toml requires, with or without an extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[><=!~ ;]", line)[0].lower() for group in groups for line in group}
    return {re.sub(r"[._]", "-", name) for name in names} - {"fabella"}


def test_every_required_package_is_locked() -> None:
    assert required() - locked().keys() == set()


def test_every_package_has_hashes_and_no_address() -> None:
    for name, entry in locked().items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name
        assert "://" not in entry, name


def test_the_versions_are_those_of_the_tests() -> None:
    tested = dict(PIN.findall((REPOSITORY / "constraints.txt").read_text(encoding="utf-8")))
    pinned = {name: PIN.match(entry)[2] for name, entry in locked().items()}  # pyright: ignore[reportOptionalSubscript]
    differing = {name: (pinned[name], tested[name]) for name in pinned.keys() & tested.keys()}
    assert {name: versions for name, versions in differing.items() if versions[0] != versions[1]} == {}
    assert len(differing) > 100


@pytest.mark.parametrize("name", ["torch", "numpy", "tokenizers"])
def test_a_package_has_the_hashes_of_several_platforms(name: str) -> None:
    assert locked()[name].count("--hash=sha256:") > 10
