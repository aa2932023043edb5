"""Megabytes of text a second into ids, Fabella beside other libraries with the same merges, in one run; ids compared.

Contestants take turns, so that a busy machine slows all of them; the ratio is the median over the turns of Fabella's
speed by that of ``encode_batch`` of HF tokenizers with its own threads. Every turn begins with nothing remembered: a
tokenizer just opened, workers just started. Starting the workers is counted only where it says so.

    python benchmarks/tokenization.py stories.txt                               a BPE of 4,096 trained on that text
    python benchmarks/tokenization.py stories.txt --tokenizer gpt2-folder/ --processes 2 --turns 7
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library

from fabella.data.dataset import dtype_for
from fabella.data.prepare.worker_pool import WorkerPool
from fabella.text.source import documents, parse_source
from fabella.tokenizers import loading
from fabella.tokenizers.byte_alphabet import LETTERS
from fabella.tokenizers.metadata import JSON_FILE

RESULTS = Path(__file__).parent / "results" / "tokenization.json"
BASELINE = "HF tokenizers, encode_batch"
CHUNK_BYTES = 2**20

Ids = list[NDArray[np.int64]]
Turn = Callable[[], Callable[[], Ids]]
"""Encode all documents, timed; what it gives turns the outcome into ids of each document, untimed."""


class Bench:
    """The text and the tokenizer, as each contestant needs them."""

    def __init__(self, texts: Sequence[str], folder: Path, processes: int) -> None:
        self.texts = list(texts)
        self.folder = folder
        self.processes = processes
        self.values: dict[str, Any] = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))

    def hf(self, fast: bool) -> Turn:
        library = Library.from_file(str(self.folder / JSON_FILE))
        library.encode_special_tokens = True
        encode = library.encode_batch_fast if fast else library.encode_batch

        def turn() -> Callable[[], Ids]:
            found = encode(self.texts, add_special_tokens=False)
            return lambda: [np.array(one.ids) for one in found]

        return turn

    def fabella(self) -> Turn:
        tokenizer = loading.load(self.folder)

        def turn() -> Callable[[], Ids]:
            found = tokenizer.encode_many(self.texts)
            return lambda: [ids.astype(np.int64) for ids in found]

        return turn

    def fabella_processes(self, ready: bool) -> Turn:
        pool = self._ready_pool() if ready else None

        def turn() -> Callable[[], Ids]:
            with pool or self._pool() as working:
                found = list(working.encode(self._chunks()))
            return lambda: [
                ids.astype(np.int64)[:-1] for part in found for ids in np.split(part.ids, np.cumsum(part.lengths)[:-1])
            ]

        return turn

    def _pool(self) -> Workers:
        dtype = dtype_for(max(self.values["model"]["vocab"].values()) + 1)
        return WorkerPool(self.folder, dtype, self.processes)

    def _ready_pool(self) -> Workers:
        pool = self._pool()
        # An empty text for each: answered once the tokenizer is open.
        list(pool.encode([[""]] * 4 * self.processes))
        return pool

    def _chunks(self) -> Iterator[list[str]]:
        chunk: list[str] = []
        size = 0
        for text in self.texts:
            chunk.append(text)
            size += len(text)
            if size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def tiktoken(self) -> Turn:
        """Its ranks are the order of the merges; its ids are translated into ours."""
        model, merges = self.values["model"], self.values["model"]["merges"]
        letters = [(bytes([value]), letter) for letter, value in sorted(LETTERS.items(), key=lambda item: item[1])]
        merged = [left + right for left, right in merges]
        spelled = [*letters, *((bytes(LETTERS[letter] for letter in token), token) for token in merged)]
        ranks = {piece: rank for rank, (piece, _) in enumerate(spelled)}
        translation = np.array([model["vocab"][token] for _, token in spelled])
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        encoding = importlib.import_module("tiktoken").Encoding(
            "same-merges", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )
        encode = encoding.encode_ordinary_batch

        def turn() -> Callable[[], Ids]:
            found = encode(self.texts, num_threads=self.processes)
            return lambda: [translation[ids] for ids in found]

        return turn


def contestants(bench: Bench) -> dict[str, Callable[[], Turn]]:
    """Name → a maker of fresh turns, of what is installed."""
    several = f"Fabella, {bench.processes} processes"
    every: dict[str, Callable[[], Turn]] = {
        BASELINE: lambda: bench.hf(fast=False),
        "HF tokenizers, encode_batch_fast": lambda: bench.hf(fast=True),
        "Fabella, 1 process": bench.fabella,
        several: lambda: bench.fabella_processes(ready=True),
        f"{several}, and starting them": lambda: bench.fabella_processes(ready=False),
    }
    if importlib.util.find_spec("tiktoken"):
        every["tiktoken, encode_ordinary_batch"] = bench.tiktoken
    return every


def measure(bench: Bench, turns: int) -> dict[str, Any]:
    """Seconds of every turn of every contestant, and whether the ids are those of the baseline."""
    makers = contestants(bench)
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    equal: dict[str, bool] = dict.fromkeys(makers, True)
    expected: Ids = bench.hf(fast=False)()()
    for number in range(turns):
        for name, make in list(makers.items())[:: 1 if number % 2 else -1]:
            turn = make()
            begun = time.perf_counter()
            ids_of = turn()
            seconds[name].append(time.perf_counter() - begun)
            ids = ids_of()
            equal[name] &= all(np.array_equal(one, other) for one, other in zip(ids, expected, strict=True))
    return {"seconds": seconds, "equal": equal, "tokens": sum(map(len, expected))}


def rows(measured: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Medians, and ratios to the baseline turn by turn."""
    base = measured["seconds"][BASELINE]
    return [
        {
            "name": name,
            "megabytes_per_second": size / 1e6 / median(seconds),
            "ratio": median(theirs / ours for theirs, ours in zip(base, seconds, strict=True)),
            "same_ids": measured["equal"][name],
        }
        for name, seconds in measured["seconds"].items()
    ]


def environment() -> dict[str, Any]:
    packages = [name for name in ("tokenizers", "tiktoken", "numpy") if importlib.util.find_spec(name)]
    return {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("text", help="a file, folder or glob of text")
    arguments.add_argument("--tokenizer", default="bpe:4096", help="bpe:SIZE to train, or the folder of a BPE")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--out", type=Path, default=RESULTS)
    asked = arguments.parse_args()
    texts = list(documents(parse_source(asked.text)))
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        loading.train(loading.parse(asked.tokenizer), texts).save(Path(folder))
        bench = Bench(texts, Path(folder), asked.processes)
        measured = measure(bench, asked.turns)
    result = {
        "environment": environment(),
        "tokenizer": Path(asked.tokenizer).name,
        "text_bytes": size,
        "documents": len(texts),
        "tokens": measured["tokens"],
        "turns": asked.turns,
        "rows": rows(measured, size),
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'':<42}{'MB/s':>8}{'ratio':>8}  ids")
    for row in result["rows"]:
        same = "the same" if row["same_ids"] else "DIFFERENT"
        print(f"{row['name']:<42}{row['megabytes_per_second']:>8.1f}{row['ratio']:>8.2f}  {same}")


if __name__ == "__main__":
    main()
