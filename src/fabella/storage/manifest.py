"""``manifest.json``: sizes and sha256 of the files of a directory, with a digest of the manifest itself."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fabella.errors import StorageError
from fabella.storage.atomic_file import sha256_of
from fabella.storage.messages import escaped, format_bytes, storage_errors

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
"""Largest manifest that is read into memory."""


def dump_manifest(values: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a manifest, with ``digest``, the sha256 of the rest: any changed bit is found."""
    body = {key: value for key, value in values.items() if key != "digest"}
    return _canonical_json({**body, "digest": hashlib.sha256(_canonical_json(body)).hexdigest()})


def _canonical_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode("ascii")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a directory after checking its digest. Raises StorageError."""
    where = f"{escaped(directory.name)}/{MANIFEST}"
    path = directory / MANIFEST
    if not path.is_file():
        raise StorageError(f"{where}: no manifest, so the directory is incomplete.")
    with storage_errors(path, f"reading {where}"):
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise StorageError(f"{where}: {format_bytes(path.stat().st_size)} is too large for a manifest.")
        data = path.read_bytes()
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise StorageError(f"{where}: damaged: not JSON.") from None
    if not isinstance(values, dict) or dump_manifest(values) != data:
        raise StorageError(f"{where}: damaged: its content does not match its digest.")
    return values


def verify_dir(directory: Path) -> dict[str, Any]:
    """Check every size and sha256 in the manifest of a directory; return the manifest.

    Raises StorageError naming the first wrong file. Files that the manifest does not list are ignored.
    """
    manifest = read_manifest(directory)
    for name in manifest_entries(directory, manifest):
        _require_sha256(directory, manifest, name, sha256_of(require_size(directory, manifest, name)))
    return manifest


def read_verified(directory: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Return the content of one file of the manifest: the same bytes whose sha256 was checked. Raises StorageError."""
    path = require_size(directory, manifest, name)
    with storage_errors(path, f"reading {escaped(name)}"):
        data = path.read_bytes()
    _require_sha256(directory, manifest, name, hashlib.sha256(data).hexdigest())
    return data


def manifest_entries(directory: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return ``files`` of a manifest after checking its structure and names. Raises StorageError."""
    entries = manifest.get("files")
    where = f"{escaped(directory.name)}/{MANIFEST}"
    if not isinstance(entries, dict):
        raise StorageError(f"{where}: damaged: it lists no files.")
    for name, entry in entries.items():
        parts = PurePosixPath(name).parts
        if not name.isprintable() or not parts or ".." in parts or name.startswith("/") or "\\" in name:
            raise StorageError(f"{where}: the name '{escaped(name)}' leads out of the directory.")
        if not isinstance(entry, dict) or {"size": int, "sha256": str} != {key: type(entry[key]) for key in entry}:
            raise StorageError(f"{where}: damaged: '{escaped(name)}' has no size and sha256.")
    return entries


def require_size(directory: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Return the path of a file of the manifest after checking its size and that no link leads to it.

    Raises StorageError.
    """
    where = f"{escaped(directory.name)}/{escaped(name)}"
    entries = manifest_entries(directory, manifest)
    if name not in entries:
        raise StorageError(f"{where}: not listed in the manifest.")
    path = directory / name
    with storage_errors(directory, f"reading {escaped(name)}"):
        if not path.is_file() or path.resolve() != directory.resolve() / name:
            raise StorageError(f"{where}: {'not a plain file' if os.path.lexists(path) else 'missing'}.")
        size, expected = path.stat().st_size, entries[name]["size"]
    if size != expected:
        raise StorageError(f"{where}: size {size} != {expected} in manifest.")
    return path


def _require_sha256(directory: Path, manifest: Mapping[str, Any], name: str, digest: str) -> None:
    if digest != manifest["files"][name]["sha256"]:
        raise StorageError(f"{escaped(directory.name)}/{escaped(name)}: damaged: its sha256 differs from the manifest.")
