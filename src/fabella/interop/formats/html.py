"""One HTML file that generates text offline: int8 weights, decoder, tokenizer and a page, for every browser."""

from pathlib import Path

from fabella.errors import UsageError
from fabella.interop.formats.export_format import ExportTarget, install_command
from fabella.interop.page.node import NodeTarget, node_command
from fabella.interop.page.render import render
from fabella.interop.source import ExportSource
from fabella.storage import write_chunks
from fabella.storage.messages import escaped_path

PRECISIONS = ("int8",)
PACKAGES = ()
INT8_DECODER = True
FILE = "story.html"


def write(source: ExportSource, directory: Path, precision: str) -> None:
    """Write the page. Raises UsageError without Node.js, which the comparison needs, or for an unsupported model."""
    _require_node()
    write_chunks(directory / FILE, [render(source).encode()])


def open_target(source: ExportSource, directory: Path) -> ExportTarget:
    """Run the page's decoder in Node.js. Raises UsageError if the page is not the one that ``write`` writes."""
    _require_node()
    file = directory / FILE
    if file.read_bytes() != render(source).encode():
        raise UsageError(
            f"{escaped_path(file)} is not the page that this version of Fabella writes for the run. "
            "It was not executed.",
            hint="Export the run again.",
        )
    return NodeTarget(file, source.config.vocab_size)


def _require_node() -> None:
    if not node_command():
        raise UsageError(
            "Format html needs Node.js, which runs the page's decoder to compare it with the run; it is not installed.",
            hint=f"Install the extra, which has it: {install_command('export')}",
        )
