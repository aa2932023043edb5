"""Files and folders that are whole or absent, whatever kills the process, and errors that say what to do.

The commit: write aside (``.NAME.partial-…``, same parent) → fsync every file → manifest with sizes and sha256
→ fsync → rename → fsync of the parent. Whoever writes holds a flock on what lies aside; it dies with the
process, so that :func:`clean_partial` removes what a killed one left and never what a living one writes.
"""

from fabella.storage.atomic_dir import remove_folder, whole_folder
from fabella.storage.atomic_file import sha256_of, write_file, write_parts
from fabella.storage.cache_dir import cache_folder
from fabella.storage.json_safe import plain, write_json
from fabella.storage.lock import locked
from fabella.storage.manifest import (
    MANIFEST,
    file_entries,
    read_manifest,
    read_verified,
    render_manifest,
    sized_file,
    verify_folder,
)
from fabella.storage.messages import escaped, free_bytes, number_of, size_in_words, storage_errors
from fabella.storage.temp_files import abandoned, clean_partial, make_folders, put_back

__all__ = [
    "MANIFEST",
    "abandoned",
    "cache_folder",
    "clean_partial",
    "escaped",
    "file_entries",
    "free_bytes",
    "locked",
    "make_folders",
    "number_of",
    "plain",
    "put_back",
    "read_manifest",
    "read_verified",
    "remove_folder",
    "render_manifest",
    "sha256_of",
    "size_in_words",
    "sized_file",
    "storage_errors",
    "verify_folder",
    "whole_folder",
    "write_file",
    "write_json",
    "write_parts",
]
