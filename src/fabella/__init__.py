"""Fabella: from a text file to a small language model, and from there to a story.

    import fabella

    outcome = fabella.train("my-stories.txt", steps=500)
    for piece in fabella.load(outcome.folder).stream("Once upon a time"):
        print(piece, end="")

Nothing heavy is loaded before it is used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name → where it lives.
_HOMES = {
    "train": "fabella.training.api",
    "resume": "fabella.training.api",
    "load": "fabella.generation.generator",
    "prepare": "fabella.data.prepare.pipeline",
    "SamplingParams": "fabella.generation.sampling",
    "FabellaError": "fabella.errors",
}

__all__ = ["FabellaError", "SamplingParams", "load", "prepare", "resume", "train"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fabella' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
