"""Train small language models from scratch, generate text with them and score it.

    import fabella

    run = fabella.train("my-stories.txt", steps=500)
    generator = fabella.load(run.path)
    for piece in generator.stream("Once upon a time"):
        print(piece, end="")
    generator.model  # an ordinary torch.nn.Module

Importing the package loads neither torch nor jax.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    "train": "fabella.training.api",
    "resume": "fabella.training.api",
    "activations": "fabella.engine.activations",
    "read_metrics": "fabella.report.metrics_columns",
    "load": "fabella.generation.generator",
    "evaluate": "fabella.evaluation.evaluate",
    "EvalConfig": "fabella.evaluation.evaluate",
    "verify": "fabella.runs.verify",
    "write_report": "fabella.report.page",
    "compare": "fabella.evaluation.comparison.compare",
    "export": "fabella.interop.export",
    "export_checkpoints": "fabella.interop.export",
    "import_model": "fabella.interop.import_model",
    "prepare": "fabella.data.prepare.pipeline",
    "SamplingParams": "fabella.generation.sampling",
    "FabellaError": "fabella.errors",
}
"""Public name → module that defines it; imported at the first use of the name."""

__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fabella' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
