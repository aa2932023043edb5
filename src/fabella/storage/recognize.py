"""Recognize what a path is by the names of files, before anything is read from it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fabella.storage.messages import escaped_path

RUN, CHECKPOINT, FAILED_STEP, DATASET, TOKENIZER, SEARCH, EXPORT = (
    "a run",
    "a checkpoint of a run",
    "a failed step of a run",
    "a prepared dataset",
    "a tokenizer",
    "a search of fabella tune",
    "an export",
)
PARTS = {
    "manifest.json", "metrics.jsonl", "samples.jsonl", "latest", "best", "checkpoints", "tokenizer", "failures",
    "evaluation.json", "exam.json",
}  # fmt: skip
"""Files and directories of a run that no command takes in place of a run or a text; config.yaml is a config, too."""
MAX_DEPTH = 3
"""Levels of a file below its run: ``RUN/checkpoints/step-00000100/model.safetensors``."""
STEP_NAME = re.compile(r"step-[0-9]{8,12}")

_SIGNS: dict[str, Callable[[Path], bool]] = {
    RUN: lambda path: (path / "config.yaml").is_file() and (path / "manifest.json").is_file(),
    FAILED_STEP: lambda path: _is_step(path) and (path / "batch.safetensors").is_file(),
    CHECKPOINT: lambda path: _is_step(path) and (path / "model.safetensors").is_file(),
    DATASET: lambda path: all((path / split / "offsets.npy").is_file() for split in ("train", "validation")),
    TOKENIZER: lambda path: (path / "fabella.json").is_file(),
    SEARCH: lambda path: (path / "study.db").is_file(),
    EXPORT: lambda path: (path / "export.json").is_file(),
}


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a path is, e.g. ``a run``, and what a user can do with it, as sentences."""

    kind: str
    advice: str


def recognize(path: Path) -> Recognized | None:
    """Return what a directory that Fabella has written is, or a file in a run; None for any other path."""
    try:
        kind = next((kind for kind, sign in _SIGNS.items() if path.is_dir() and sign(path)), None)
        run = None if kind else _run_around(path)
    except (OSError, ValueError):  # a name that is too long or has a null byte is nothing that Fabella has written
        return None
    if run is not None:
        name = quote(escaped_path(run))
        return Recognized(f"part of the run {name}", f"Give the run: {name}")
    return Recognized(kind, _advice(kind, path)) if kind else None


def _run_around(path: Path) -> Path | None:
    """Return the run that an existing path is a part of; None for a file of the user's in it."""
    if not os.path.lexists(path):
        return None
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links are not followed
    for levels, parent in enumerate(list(absolute.parents)[:MAX_DEPTH], start=1):
        if absolute.parts[-levels] in PARTS and _SIGNS[RUN](parent):
            return parent if path.is_absolute() else Path(os.path.relpath(parent))
    return None


def runs_in(directory: Path) -> list[Path]:
    """Return the runs that are directly in ``directory``, sorted by name."""
    children = sorted(directory.iterdir()) if directory.is_dir() else []
    return [child for child in children if child.is_dir() and _SIGNS[RUN](child)]


def _is_step(path: Path) -> bool:
    return STEP_NAME.fullmatch(path.name) is not None


def _advice(kind: str, path: Path) -> str:
    name, run = quote(escaped_path(path)), quote(escaped_path(path.parent.parent))
    step = f"{run} --checkpoint {_number(path)}"
    return {
        RUN: f"Train it further with: fabella resume {name}. Generate text with: fabella generate {name}",
        CHECKPOINT: f"Give its run and its step: fabella generate {step}. To begin a new run with it: fabella resume "
        f"{step} --out {_branch(path)}. To train its weights on a text: fabella train TEXT --init-from {name}",
        FAILED_STEP: f"Replay it with: fabella replay-step {name}",
        DATASET: f"Train a preset on it with: fabella train storybook-1m --data {name}",
        TOKENIZER: f"Show it with: fabella tokenizer show {name}",
        SEARCH: f"Train its best config with: fabella train {name}/best.yaml",
        EXPORT: f"Compare it with its run: fabella verify {name} --against RUN",
    }[kind]


def _branch(path: Path) -> str:
    """Return a name for a run that begins with a checkpoint."""
    run = path.parent.parent
    return quote(escaped_path(run.with_name(f"{run.name}-{_number(path)}") if run.name else Path("branch")))


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step-")) if _is_step(path) else 0
