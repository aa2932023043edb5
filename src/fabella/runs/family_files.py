"""Files of a model family outside the package: kept with a run, and executed only if this machine trusts them.

A kept family is code. Its sha256 is trusted after training with it or after ``fabella check-family PATH --trust``: the
cache directory then has an empty file of that name.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.errors import CheckpointError, ConfigError, UnknownFamilyError
from fabella.models.registry import family_config, family_source, is_external, kept_family, resolve_family
from fabella.storage import MANIFEST, atomic_dir, atomic_write, cache_dir, escaped, make_dirs, sha256_of, storage_errors
from fabella.storage.messages import escaped_path

FAMILY = "family"
"""Directory of the kept files in a run directory, and key of their sha256 in its manifest."""


def family_digests(family: str) -> dict[str, str]:
    """Return file name → sha256 of a family outside the package; empty for one of the package."""
    return {path.name: sha256_of(path) for path in family_source(family)}


def trust_family(family: str) -> None:
    """Record the files of a family as trusted on this machine. Raises StorageError if the cache is not writable."""
    for digest in family_digests(family).values():
        _trust(digest)


def keep_family(family: str, run_dir: Path) -> dict[str, str]:
    """Copy the files of ``family`` to the run directory, trust them and return file name → sha256.

    Raises ConfigError if the family cannot be loaded from the copy, for example because it imports other local files.
    """
    contents = {path.name: path.read_bytes() for path in family_source(family)}
    if not contents:
        return {}
    target = run_dir / FAMILY
    with atomic_dir(target, replace=True) as temp, storage_errors(target, "copying the family"):
        for name, content in contents.items():
            (temp / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for digest in digests.values():
        _trust(digest)
    family_config(resolve_family(kept_family(family, FAMILY), run_dir))
    return digests


def load_kept_family(family: str, run_dir: Path, manifest: Mapping[str, Any]) -> str:
    """Load the family of a saved run and return it with the path of its kept file, if it has one.

    Raises CheckpointError if a kept file is missing or was changed, UnknownFamilyError if the family is not trusted, or
    cannot be loaded.
    """
    if is_external(family):
        _verify_kept(family, run_dir, manifest.get(FAMILY))
        _require_trusted(family, run_dir, manifest[FAMILY])
    resolved = resolve_family(family, run_dir)
    try:
        family_config(resolved)
    except ConfigError as error:
        raise UnknownFamilyError(_not_a_config(run_dir, str(error))) from None
    return resolved


def _verify_kept(family: str, run_dir: Path, digests: Any) -> None:
    """Raise CheckpointError unless ``family`` and all files next to it are plain files with the saved sha256."""
    directory = run_dir / FAMILY
    if not isinstance(digests, dict) or family not in {f"./{FAMILY}/{name}" for name in digests}:
        raise CheckpointError(_not_a_config(run_dir, f"model.family = '{family}' is not a file kept with the run."))
    with storage_errors(directory, "reading the family"):
        present = sorted(os.listdir(directory)) if directory.is_dir() else []  # noqa: PTH208 - names, not paths
    foreign = [name for name in present if name not in {*digests, MANIFEST, "__pycache__"}]
    if foreign:
        raise CheckpointError(
            f"{escaped_path(directory / foreign[0])} is not a file of the run's family.",
            hint="Remove it to load the run.",
        )
    for name, digest in digests.items():
        path = directory / name
        if Path(name).name != name or not path.is_file() or path.is_symlink():
            raise CheckpointError(
                f"{escaped_path(path)} is missing or not a plain file.", hint="Restore it from a copy."
            )
        if sha256_of(path) != digest:
            raise CheckpointError(
                f"{escaped_path(path)} was changed after the run started: its sha256 differs from the manifest.",
                hint="Restore it from a copy, or start a new run with the changed file.",
            )


def _require_trusted(family: str, run_dir: Path, digests: Mapping[str, str]) -> None:
    if not all(_trusted_path(digest).is_file() for digest in digests.values()):
        path = run_dir / family
        raise UnknownFamilyError(
            f"{escaped_path(path)} defines the model of this run. It is Python code that this machine does not trust "
            "yet.",
            hint=f"Read it, then run: fabella check-family {quote(escaped_path(path))} --trust",
        )


def _trust(digest: str) -> None:
    path = _trusted_path(digest)
    if path.is_file():
        return
    with storage_errors(path.parent, "recording a trusted family"):
        make_dirs(path.parent)
    atomic_write(path, b"")


def _trusted_path(digest: str) -> Path:
    return cache_dir("trusted-families") / digest


def _not_a_config(run_dir: Path, problem: str) -> str:
    return f"{escaped_path(run_dir / 'config.yaml')} is not the config of a run: {escaped(problem, 1000)}"
