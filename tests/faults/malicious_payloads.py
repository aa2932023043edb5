"""Forty-two files that run code when they are unpickled. The code creates a file, the canary."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Call:
    """Unpickles to the result of ``function(*arguments)``."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.target = (module, name, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        module, name, arguments = self.target
        return getattr(__import__(module), name), arguments


def payloads(canary: Path) -> dict[str, Any]:
    """Return objects that create the canary when they are unpickled."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return {
        "exec": Call("builtins", "exec", touch),
        "eval": Call("builtins", "eval", touch),
        "system": Call("os", "system", f"touch '{canary}'"),
        "open": Call("builtins", "open", str(canary), "w"),
        "popen": Call("subprocess", "getoutput", f"touch '{canary}'"),
    }


def pickled(payload: Any, protocol: int) -> bytes:
    """Return a plain pickle."""
    return pickle.dumps({"model": payload}, protocol=protocol)


def zip_archive(payload: Any) -> bytes:
    """Return a zip archive with ``archive/data.pkl``, the format of ``torch.save``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(payload, 2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tar_archive(payload: Any) -> bytes:
    """Return a tar archive, the format of old PyTorch versions."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        data = pickled(payload, 2)
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def numpy_object_array(payload: Any) -> bytes:
    """Return a NumPy file with an array of objects, which NumPy pickles."""
    file = io.BytesIO()
    np.save(file, np.array([payload], dtype=object), allow_pickle=True)
    return file.getvalue()


def numpy_archive(payload: Any) -> bytes:
    """Return an .npz archive with an array of objects."""
    file = io.BytesIO()
    np.savez(file, model=np.array([payload], dtype=object))
    return file.getvalue()


def seven_zip(payload: Any) -> bytes:
    """Return a pickle after the signature of 7z, which misled scanners that trust signatures."""
    return b"7z\xbc\xaf\x27\x1c\0\4" + pickled(payload, 2)


def with_safetensors_header(payload: Any) -> bytes:
    """Return a pickle after the start of a safetensors file."""
    return (2).to_bytes(8, "little") + b"{}" + pickled(payload, 4)


WRAPPERS: dict[str, Callable[[Any], bytes]] = {
    "zip": zip_archive,
    "tar": tar_archive,
    "npy": numpy_object_array,
    "npz": numpy_archive,
    "7z": seven_zip,
    "headed": with_safetensors_header,
}


def malicious_files(canary: Path) -> dict[str, bytes]:
    """Return name → content: five ways to run code in six pickle protocols, two of them in each container."""
    objects = payloads(canary)
    plain = {f"{name}, protocol {n}": pickled(item, n) for name, item in objects.items() for n in range(6)}
    hidden = {
        f"{name} in {kind}": wrap(objects[name]) for kind, wrap in WRAPPERS.items() for name in ("exec", "system")
    }
    return plain | hidden
