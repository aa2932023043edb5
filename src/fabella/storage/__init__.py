"""Atomic files and directories, manifests, locks, and errors with a hint.

A write is committed in this order: temporary file or directory (``.NAME.partial-…`` in the same parent) → fsync of
every file → manifest with sizes and sha256 → fsync → rename → fsync of the parent. The writer holds a lock on the
temporary until the end of its process. :func:`remove_stale_temps` therefore removes temporaries of killed processes
and never those of running ones.

``fabella.storage.lock`` is imported by name where a directory is locked: every command imports this package, few
of them lock anything, and filelock and psutil take 60 ms to import.
"""

from fabella.storage.atomic_dir import atomic_dir, remove_dir
from fabella.storage.atomic_file import atomic_write, sha256_of, write_chunks
from fabella.storage.cache_dir import cache_dir
from fabella.storage.formatting import (
    align_columns,
    format_bytes,
    format_duration,
    format_exp,
    format_number,
    format_share,
    number_of,
)
from fabella.storage.json_safe import json_safe, write_json
from fabella.storage.manifest import (
    MANIFEST,
    dump_manifest,
    manifest_entries,
    read_manifest,
    read_verified,
    require_size,
    verify_dir,
)
from fabella.storage.messages import escaped, free_bytes, storage_errors
from fabella.storage.output_path import require_writable
from fabella.storage.recognize import recognize
from fabella.storage.temp_files import find_stale_temps, make_dirs, remove_stale_temps, restore_replaced

__all__ = [
    "MANIFEST",
    "align_columns",
    "atomic_dir",
    "atomic_write",
    "cache_dir",
    "dump_manifest",
    "escaped",
    "find_stale_temps",
    "format_bytes",
    "format_duration",
    "format_exp",
    "format_number",
    "format_share",
    "free_bytes",
    "json_safe",
    "make_dirs",
    "manifest_entries",
    "number_of",
    "read_manifest",
    "read_verified",
    "recognize",
    "remove_dir",
    "remove_stale_temps",
    "require_size",
    "require_writable",
    "restore_replaced",
    "sha256_of",
    "storage_errors",
    "verify_dir",
    "write_chunks",
    "write_json",
]
