"""Reader of source code: a file is one document."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fabella.text.decode_policy import DecodePolicy, ReadOptions
from fabella.text.readers import plain

GROUP = "code"
SUFFIXES = frozenset((
    ".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".kt",
    ".scala", ".go", ".rs", ".rb", ".php", ".pl", ".lua", ".swift", ".m", ".hs", ".ml", ".clj", ".ex", ".exs",
    ".erl", ".jl", ".r", ".sh", ".bash", ".ps1", ".sql", ".css", ".scss", ".vue", ".dart", ".zig", ".f90", ".asm",
    ".lisp", ".el",
))  # fmt: skip


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the file as one document."""
    return plain.read(path, replace(options, one_text=True, keep_boilerplate=True), policy)
