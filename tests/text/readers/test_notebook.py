"""Tests that a notebook becomes the text and the code of its cells, and a damaged one an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.config.data import FilesSource
from fabella.errors import TextError
from fabella.text.decode_policy import DecodePolicy
from fabella.text.file_set import documents

CELLS: list[dict[str, Any]] = [
    {"cell_type": "markdown", "source": ["# The fox\n", "\n", "Once upon a time."]},
    {"cell_type": "code", "source": "print('fox')\n", "outputs": [{"text": ["fox\n"]}]},
    {"cell_type": "code", "source": [], "outputs": []},
    {"cell_type": "raw", "source": "The end."},
]
TEXT = "# The fox\n\nOnce upon a time.\n\nprint('fox')\n\nThe end."
OLD = {
    "nbformat": 3,
    "worksheets": [
        {"cells": [{"input" if cell["cell_type"] == "code" else "source": cell["source"]} for cell in CELLS]}
    ],
}


def read(path: Path) -> list[str]:
    """Return the documents of a file."""
    return list(documents(FilesSource(paths=(str(path),)), DecodePolicy()))


@pytest.mark.parametrize("notebook", [{"nbformat": 4, "cells": CELLS}, OLD], ids=["version 4", "version 3"])
def test_cells_are_one_document_without_outputs(tmp_path: Path, notebook: object) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook))
    assert read(path) == [TEXT]


@pytest.mark.fault("I7", cases=7)
@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{}", '{"cells": 3}', '{"cells": [{}]}', '{"cells": [{"source": 3}]}', '{"worksheets": [[]]}'],
)
def test_a_file_that_is_no_notebook_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    with pytest.raises(TextError, match=r"a\.ipynb is no Jupyter notebook"):
        read(path)


def test_invalid_text_in_a_cell_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": [{"source": "fox \\ud800"}]}')
    with pytest.raises(TextError, match=r"a\.ipynb, byte 4 of its cells"):
        read(path)
