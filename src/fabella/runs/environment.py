"""What a run was made with: versions, hardware and fingerprints, for the manifest."""

import hashlib
import platform
import sys
from importlib import metadata, resources
from typing import Any

import numpy as np
import psutil

import fabella

PACKAGES = ("torch", "jax", "tokenizers", "sentencepiece", "safetensors", "pydantic")


def environment() -> dict[str, Any]:
    """Versions and hardware; no user's name, no path, no environment variable."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "fabella": fabella.__version__,
        "code": code_fingerprint(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        **{name: version for name, version in versions.items() if version},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device file, not a path of ours
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # no Linux
        names = []
    return names[0] if names else platform.processor()


def code_fingerprint() -> str:
    """sha256 over every source file of the package, in order of their names."""
    digest = hashlib.sha256()
    root = resources.files("fabella")
    for path in sorted(_sources(root)):
        digest.update(path.encode())
        digest.update(root.joinpath(path).read_bytes())
    return digest.hexdigest()


def _sources(folder: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _sources(item, f"{prefix}{item.name}/")
        elif item.name.endswith((".py", ".yaml")):
            found.append(prefix + item.name)
    return found
