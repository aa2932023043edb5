"""Reader of Jupyter notebooks: the text and the code of a notebook are one document, without outputs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fabella.errors import TextError
from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions

GROUP = "code"
SUFFIXES = frozenset({".ipynb"})


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the cells of a notebook, separated by empty lines. Raises TextError for a file without cells."""
    name = str(path)
    content = b"".join(read_utf8(path, options, policy.notes)).decode("utf-8", "surrogateescape")
    try:
        cells = [_source(cell) for cell in _cells(json.loads(content))]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TextError(f"{name} is no Jupyter notebook.", hint="Save it again, or export it as .py or .md.") from error
    return policy.decoded_text(
        "\n\n".join(cell for cell in cells if cell), lambda _raw, at: f"{name}, byte {at} of its cells"
    )


def _cells(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the cells of a notebook; before version 4 of the format they are in worksheets."""
    if "worksheets" in notebook:
        return [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
    return list(notebook["cells"])


def _source(cell: Mapping[str, Any]) -> str:
    source = cell["source"] if "source" in cell else cell["input"]
    return ("" if source is None else source if isinstance(source, str) else "".join(source)).strip("\n")
