"""``manifest.json``: what a folder holds, sizes and sha256, and a digest of itself."""

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
# A manifest lists files; one larger than this is none of ours, and is not read into memory.
LARGEST_MANIFEST_BYTES = 64 * 2**20


def dump_manifest(values: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest, with ``digest``, the sha256 of all the rest: any changed bit shows."""
    body = {key: value for key, value in values.items() if key != "digest"}
    return _spelled({**body, "digest": hashlib.sha256(_spelled(body)).hexdigest()})


def _spelled(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode("ascii")


def read_manifest(folder: Path) -> dict[str, Any]:
    """``manifest.json`` of a folder, proven unchanged by its own digest. Raises StorageError."""
    where = f"{escaped(folder.name)}/{MANIFEST}"
    path = folder / MANIFEST
    if not path.is_file():
        raise StorageError(f"{where}: no manifest, so the folder is incomplete.")
    with storage_errors(path, f"reading {where}"):
        if path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise StorageError(f"{where}: {format_bytes(path.stat().st_size)} is too large for a manifest.")
        data = path.read_bytes()
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise StorageError(f"{where}: damaged, it is not JSON.") from None
    if not isinstance(values, dict) or dump_manifest(values) != data:
        raise StorageError(f"{where}: damaged, its content does not match its own digest.")
    return values


def verify_folder(folder: Path) -> dict[str, Any]:
    """Check every size and sha256 of a folder's manifest, and return it.

    Raises StorageError naming the first wrong file. Files that the manifest does not list are not looked at.
    """
    manifest = read_manifest(folder)
    for name in manifest_entries(folder, manifest):
        _compare(folder, manifest, name, sha256_of(require_size(folder, manifest, name)))
    return manifest


def read_verified(folder: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """The content of one file of the manifest: the very bytes whose sha256 was checked. Raises StorageError."""
    path = require_size(folder, manifest, name)
    with storage_errors(path, f"reading {escaped(name)}"):
        data = path.read_bytes()
    _compare(folder, manifest, name, hashlib.sha256(data).hexdigest())
    return data


def manifest_entries(folder: Path, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``files`` of a manifest, its shape and its names checked. Raises StorageError."""
    entries = manifest.get("files")
    where = f"{escaped(folder.name)}/{MANIFEST}"
    if not isinstance(entries, dict):
        raise StorageError(f"{where}: damaged, it lists no files.")
    for name, entry in entries.items():
        parts = PurePosixPath(name).parts
        if not name.isprintable() or not parts or ".." in parts or name.startswith("/") or "\\" in name:
            raise StorageError(f"{where}: the name '{escaped(name)}' leads out of the folder.")
        if not isinstance(entry, dict) or {"size": int, "sha256": str} != {key: type(entry[key]) for key in entry}:
            raise StorageError(f"{where}: damaged, '{escaped(name)}' has no size and sha256.")
    return entries


def require_size(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """The path of a file of the manifest: there, of the right size, reached through no link. Raises StorageError."""
    where = f"{escaped(folder.name)}/{escaped(name)}"
    entries = manifest_entries(folder, manifest)
    if name not in entries:
        raise StorageError(f"{where}: not listed in the manifest.")
    path = folder / name
    with storage_errors(folder, f"reading {escaped(name)}"):
        if not path.is_file() or path.resolve() != folder.resolve() / name:
            raise StorageError(f"{where}: {'not a plain file' if os.path.lexists(path) else 'missing'}.")
        size, expected = path.stat().st_size, entries[name]["size"]
    if size != expected:
        raise StorageError(f"{where}: size {size} != {expected} in manifest.")
    return path


def _compare(folder: Path, manifest: Mapping[str, Any], name: str, digest: str) -> None:
    if digest != manifest["files"][name]["sha256"]:
        raise StorageError(f"{escaped(folder.name)}/{escaped(name)}: damaged, its sha256 differs from the manifest.")
