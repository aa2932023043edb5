"""Tests that every notebook of the docs runs from its first cell to its last, in a kernel, with few training steps."""

import json
import re
from pathlib import Path

import pytest

import fabella

nbclient = pytest.importorskip("nbclient", reason="needs ipykernel and nbclient: make test installs them")
import nbformat  # noqa: E402 - comes with nbclient

from fabella.run_config.files import preset_text  # noqa: E402

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
STEPS = r"\b(STEPS = |steps=)\d+"
PRESET = r'"(storybook-[\w-]*1m)"'
SECONDS_PER_CELL = 300


def smaller_preset(name: str, folder: Path) -> str:
    """Write a preset of the storybook with a tenth of its stories; return the name of the file."""
    text, count = re.subn(r"\bstories: 20000\b", "stories: 2000", preset_text(name))
    assert count == 1, f"{name} has 20,000 stories"
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return f"{name}.yaml"


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_code_of_a_notebook_installs_the_wheel_of_this_version(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))
    assert f"%pip install --quiet fabella-{fabella.__version__}-py3-none-any.whl" in first


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_works(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    shortened = smaller = 0
    for cell in notebook.cells:
        source = cell.source.replace("SEEDS = (1, 2, 3)", "SEEDS = (1, 2)")
        source, steps = re.subn(STEPS, r"\g<1>6", source)
        cell.source, presets = re.subn(PRESET, lambda match: f'"{smaller_preset(match[1], tmp_path)}"', source)
        shortened, smaller = shortened + steps, smaller + presets
    assert shortened, "the training of the notebook is shortened"
    assert smaller or "storybook" not in path.read_text(encoding="utf-8"), "the text of the notebook is smaller"
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS_PER_CELL, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError with the traceback of a cell
