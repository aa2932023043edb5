"""The model that comes with the package: a small storyteller, in the directory ``run``.

It learned TinyStories (Eldan & Li 2023, arXiv 2305.07759; licence CDLA-Sharing-1.0). Its training is described in
benchmarks/storyteller.yaml.
"""

from pathlib import Path

NAME = "storyteller"
"""Name of the included model, where a command or ``fabella.load`` takes a run directory to read."""


TRAIN = f"To train the included model on a text: fabella train TEXT --init-from {NAME}"


def run_or_included(path: Path) -> Path:
    """Return the run directory of the included model for ``storyteller``, and any other path as it is.

    A directory of that name comes first.
    """
    return Path(__file__).with_name("run") if str(path) == NAME and not path.exists() else path


def name_of_run(path: Path) -> str:
    """Return the name by which records name the run in a directory: that of the directory, or ``storyteller``."""
    return NAME if path.resolve() == Path(__file__).resolve().with_name("run") else path.resolve().name
