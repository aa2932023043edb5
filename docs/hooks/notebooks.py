"""MkDocs hook that makes a page of every notebook, with a link to the notebook itself."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the notebooks to those of the docs directory."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page(path)))
    return files


def page(path: Path) -> str:
    """Return a notebook as Markdown: its texts, and its code in blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_block(cell) for cell in cells]
    parts.insert(1, f"[Download the notebook]({path.name}){{download}}")
    return "\n\n".join(parts) + "\n"


def _block(cell: dict[str, object]) -> str:
    source = cell["source"]
    text = source if isinstance(source, str) else "".join(source)  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
