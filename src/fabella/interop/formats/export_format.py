"""Contract of an export format, and its lookup by name.

A format is a module of ``fabella.interop.formats`` with

    PRECISIONS                             storage types of the weights, the default first: ``("float32", "float16")``
    PACKAGES                               packages that it imports, of the extra ``export`` or that named by ``EXTRA``
    write(source, directory, precision)    write the files of the export
    open_target(source, directory)         load them with the target, for the comparison with the run

if its target computes as Fabella's int8 decoder, ``INT8_DECODER = True``: then the greedy text must be that decoder's;
and, if Fabella imports it as well, ``recognizes(path)`` and ``read(path)``. The comparison calls the target only
through :class:`ExportTarget`, so that a format shares no code with the model that it is compared with.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

import fabella
from fabella.errors import UsageError, did_you_mean
from fabella.interop import formats
from fabella.interop.source import ExportSource


class ExportTarget(Protocol):
    """An export as its target loads it. Rows of ids begin with the id that precedes a document.

    A target that computes something with less precision than the file has names it by ``rounding``, and has
    ``rounded()``, a context in which Fabella's model computes alike: that must explain how float32 logits differ. One
    that reads a character as a space, whatever the file says, names the character by ``read_as_space``.
    """

    name: str
    """The target and its version, for example ``transformers 5.23.0, LlamaForCausalLM``."""

    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        ...

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the ``max_tokens`` most likely next ids of each row, by the target's own decoding with its cache.

        What follows the id that ends a document is not compared.
        """
        ...

    def encode(self, text: str) -> Sequence[int] | None:
        """Return the ids that the target reads for ``text``, with the first id; None without a tokenizer."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as the target shows it. Called only if ``encode`` returns ids."""
        ...


class ExportFormat(Protocol):
    """Module of one export format."""

    PRECISIONS: tuple[str, ...]
    PACKAGES: tuple[str, ...]

    def write(self, source: ExportSource, directory: Path, precision: str) -> None:
        """Write the files of the export. Raises UsageError if the format cannot hold this model."""
        ...

    def open_target(self, source: ExportSource, directory: Path) -> ExportTarget:
        """Load an export with its target.

        ``fabella verify`` may get an export from anyone: only code that ``write`` would write for ``source`` may run.
        """
        ...


def format_names() -> list[str]:
    """Return the names of the export formats: the files of ``fabella.interop.formats``."""
    names = {module.name.removesuffix("_torch") for module in pkgutil.iter_modules(formats.__path__)}
    return sorted(names - {__name__.rpartition(".")[2]})


def export_format(name: str) -> Any:
    """Return the module of a format. Raises UsageError for an unknown one."""
    if name not in format_names():
        raise UsageError(f"Unknown export format {name!r}.", hint=did_you_mean(name, format_names()))
    return importlib.import_module(f"{formats.__name__}.{name}")


def require_precision(name: str, module: ExportFormat, precision: str) -> str:
    """Return ``precision``, or the format's default if it is empty. Raises UsageError if the format lacks it."""
    if not precision:
        return module.PRECISIONS[0]
    if precision not in module.PRECISIONS:
        reason = getattr(module, "REASONS", {}).get(precision, "")
        raise UsageError(
            f"Format {name} has no precision {precision!r}{': ' + reason if reason else ''}.",
            hint=f"Choose from: {', '.join(module.PRECISIONS)}.",
        )
    return precision


def require_packages(name: str, packages: Sequence[str], extra: str = "export") -> None:
    """Raise UsageError with the command that installs what is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"Format {name} needs {', '.join(package.replace('_', '-') for package in missing)}, "
            f"which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint=f"Install the extra: {install_command(extra)}",
        )


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra: from the checkout that is running, else from the index."""
    root = Path(fabella.__file__).parents[2]
    if (root / "pyproject.toml").is_file() and (root / "src").is_dir():
        return f"pip install -e '{root}[{extra}]'"
    return f"pip install 'fabella[{extra}]'"
