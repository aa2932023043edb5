"""What objects of the Python API show in a Jupyter notebook, and whether output goes to one."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

WORST_LOSS = 8.0
"""Loss of a token in nats that gets the strongest color; a uniform guess among 3,000 tokens has it."""


def is_notebook(stream: TextIO | None) -> bool:
    """Return whether a stream is shown below a cell of a Jupyter notebook, where a carriage return rewrites a line."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the texts are escaped."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def html_png(path: Path, text: str) -> str:
    """Return an image that is stored in the notebook itself, or nothing if there is no such file."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(text)}" style="max-width: 40em" src="data:image/png;base64,{data}">'


def html_tokens(tokens: Sequence[str], losses: Sequence[float]) -> str:
    """Return a text with each token on a background of its loss in nats: the harder to predict, the stronger."""
    spans: list[str] = []
    for token, loss in zip(tokens, losses, strict=True):
        strength = min(loss / WORST_LOSS, 1.0) if math.isfinite(loss) else 1.0
        style = f"background: rgba(220, 90, 0, {0.75 * strength:.2f})"
        spans.append(f'<span style="{style}" title="{loss:.2f} nats">{html.escape(token)}</span>')
    return f'<div style="white-space: pre-wrap">{"".join(spans)}</div>'
