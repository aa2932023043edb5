"""Files and folders that are whole or absent, whatever kills the process, and errors that say what to do.

The commit: write aside (``.NAME.partial-…``, same parent) → fsync every file → manifest with sizes and sha256
→ fsync → rename → fsync of the parent. Whoever writes holds a flock on what lies aside; it dies with the
process, so that :func:`clean_partial` removes what a killed one left and never what a living one writes.
"""

from fabella.storage.atomic_dir import atomic_dir, remove_dir
from fabella.storage.atomic_file import atomic_write, sha256_of, write_chunks
from fabella.storage.cache_dir import cache_folder
from fabella.storage.json_safe import json_safe, write_json
from fabella.storage.lock import locked
from fabella.storage.manifest import (
    MANIFEST,
    dump_manifest,
    manifest_entries,
    read_manifest,
    read_verified,
    require_size,
    verify_folder,
)
from fabella.storage.messages import escaped, format_bytes, free_bytes, number_of, storage_errors
from fabella.storage.temp_files import find_stale_temps, make_folders, remove_stale_temps, restore_replaced

__all__ = [
    "MANIFEST",
    "atomic_dir",
    "atomic_write",
    "cache_folder",
    "dump_manifest",
    "escaped",
    "find_stale_temps",
    "format_bytes",
    "free_bytes",
    "json_safe",
    "locked",
    "make_folders",
    "manifest_entries",
    "number_of",
    "read_manifest",
    "read_verified",
    "remove_dir",
    "remove_stale_temps",
    "require_size",
    "restore_replaced",
    "sha256_of",
    "storage_errors",
    "verify_folder",
    "write_chunks",
    "write_json",
]
