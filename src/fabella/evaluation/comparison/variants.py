"""Variants of a comparison: runs that differ only in their seed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from fabella.report.seeds import settings_but_seed
from fabella.run_config.run import RunConfig


@dataclass(frozen=True, slots=True)
class Variant:
    """``runs``: place of each run in the comparison → its unique name."""

    name: str
    runs: dict[int, str]


def group_by_variant(runs: Sequence[tuple[Path, RunConfig, bool]]) -> list[Variant]:
    """Group runs, each given by path, config and whether it was imported, in their order.

    A run whose seed its variant already has begins a new one, so that a run compared with itself is not its own seed.
    An imported model is a variant: its training is not known.
    """
    names = _names([path for path, _, _ in runs])
    groups: list[tuple[object, dict[int, str]]] = []
    for number, (_, run, imported) in enumerate(runs):
        key: object = number if imported else settings_but_seed(run)
        fitting = [
            members
            for other, members in groups
            if other == key and run.seed not in {runs[member][1].seed for member in members}
        ]
        if fitting:
            fitting[0][number] = names[number]
        else:
            groups.append((key, {number: names[number]}))
    shared = _unique([_shared_name(list(members.values())) for _, members in groups])
    return [Variant(name, members) for name, (_, members) in zip(shared, groups, strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a unique name for each path: the last part of it, or all that differs."""
    resolved = [path.resolve() for path in paths]
    names = [path.name for path in resolved]
    if len(set(names)) < len(set(resolved)):
        parent = os.path.commonpath([path.parent for path in resolved])
        names = [os.path.relpath(path, parent) for path in resolved]
    return _unique(names)


def _shared_name(names: Sequence[str]) -> str:
    """Return what the names of the seeds of a variant have in common: ``llama`` for llama/seed-1 and llama/seed-2."""
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike).rstrip("0123456789")
    return common.removesuffix("seed").rstrip("-_./ ").removesuffix("seed").rstrip("-_./ ") or names[0]


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, with a number after each one that an earlier one has."""
    result: list[str] = []
    for name in names:
        candidates = [name, *(f"{name} ({number})" for number in range(2, len(names) + 2))]
        result.append(next(candidate for candidate in candidates if candidate not in result))
    return result
