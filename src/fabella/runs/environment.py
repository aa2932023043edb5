"""Versions, hardware and code fingerprint for the manifest of a run."""

import hashlib
import platform
import sys
from functools import cache
from importlib import metadata, resources
from typing import Any

import numpy as np
import psutil

import fabella
from fabella.native.processor import processor_name

PACKAGES = ("torch", "jax", "tokenizers", "sentencepiece", "safetensors", "pydantic")


def environment() -> dict[str, Any]:
    """Return versions and hardware; no user name, path or environment variable."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "fabella": fabella.__version__,
        "code": code_fingerprint(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        **{name: version for name, version in versions.items() if version},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
    }


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@cache
def code_fingerprint() -> str:
    """Return the sha256 over all source files of the package, in order of their names; read once per process."""
    digest = hashlib.sha256()
    root = resources.files("fabella")
    for path in sorted(_sources(root)):
        digest.update(path.encode())
        digest.update(root.joinpath(path).read_bytes())
    return digest.hexdigest()


def _sources(directory: Any, prefix: str = "") -> list[str]:
    paths: list[str] = []
    for item in directory.iterdir():
        if item.is_dir():
            paths += _sources(item, f"{prefix}{item.name}/")
        elif item.name.endswith((".py", ".yaml", ".cpp", ".h")):
            paths.append(prefix + item.name)
    return paths
