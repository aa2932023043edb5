"""Tokenization speed of Fabella and of other libraries with the same merges, in megabytes per second; ids are compared.

Baselines alternate, so that a busy machine slows all of them. Ratios are medians over the rounds, relative to
``encode_batch`` of HF tokenizers with its own threads. Every round starts without caches: with a newly opened tokenizer
and new workers. The start of the workers counts only for the baseline that says so.

    python benchmarks/tokenization.py stories.txt                               trains a BPE of 4,096 on the text
    python benchmarks/tokenization.py stories.txt --tokenizer gpt2-folder/ --processes 2 --rounds 7
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
from fabella.tokenizers.metadata import JSON_FILE
from fabella.tokenizers.vocab_bytes import LETTERS

RESULTS = Path(__file__).parent / "results" / "tokenization.json"
BASELINE = "HF tokenizers, encode_batch"
CHUNK_BYTES = 2**20

Ids = list[NDArray[np.int64]]
Round = Callable[[], Callable[[], Ids]]
"""Encode all documents (timed) and return a function that converts the result to ids per document (not timed)."""


class Bench:
    """Text and tokenizer in the forms that the baselines need."""

    def __init__(self, texts: Sequence[str], folder: Path, processes: int) -> None:
        self.texts = list(texts)
        self.folder = folder
        self.processes = processes
        self.values: dict[str, Any] = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))

    def hf(self, fast: bool) -> Round:
        library = Library.from_file(str(self.folder / JSON_FILE))
        library.encode_special_tokens = True
        encode = library.encode_batch_fast if fast else library.encode_batch

        def encode_all() -> Callable[[], Ids]:
            encodings = encode(self.texts, add_special_tokens=False)
            return lambda: [np.array(encoding.ids) for encoding in encodings]

        return encode_all

    def fabella(self) -> Round:
        tokenizer = loading.load(self.folder)

        def encode_all() -> Callable[[], Ids]:
            arrays = tokenizer.encode_many(self.texts)
            return lambda: [ids.astype(np.int64) for ids in arrays]

        return encode_all

    def fabella_processes(self, ready: bool) -> Round:
        pool = self._ready_pool() if ready else None

        def encode_all() -> Callable[[], Ids]:
            with pool or self._pool() as workers:
                chunks = list(workers.encode(self._chunks()))
            return lambda: [
                ids.astype(np.int64)[:-1]
                for chunk in chunks
                for ids in np.split(chunk.ids, np.cumsum(chunk.lengths)[:-1])
            ]

        return encode_all

    def _pool(self) -> WorkerPool:
        dtype = dtype_for(max(self.values["model"]["vocab"].values()) + 1)
        return WorkerPool(self.folder, dtype, self.processes)

    def _ready_pool(self) -> WorkerPool:
        pool = self._pool()
        # A worker returns the empty text once its tokenizer is open.
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

    def tiktoken(self) -> Round:
        """Encode with tiktoken: its ranks are the order of the merges, and its ids are mapped to ours."""
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

        def encode_all() -> Callable[[], Ids]:
            lists = encode(self.texts, num_threads=self.processes)
            return lambda: [translation[ids] for ids in lists]

        return encode_all


def installed_baselines(bench: Bench) -> dict[str, Callable[[], Round]]:
    """Return a factory of rounds for every installed baseline."""
    several = f"Fabella, {bench.processes} processes"
    baselines: dict[str, Callable[[], Round]] = {
        BASELINE: lambda: bench.hf(fast=False),
        "HF tokenizers, encode_batch_fast": lambda: bench.hf(fast=True),
        "Fabella, 1 process": bench.fabella,
        several: lambda: bench.fabella_processes(ready=True),
        f"{several}, including their start": lambda: bench.fabella_processes(ready=False),
    }
    if importlib.util.find_spec("tiktoken"):
        baselines["tiktoken, encode_ordinary_batch"] = bench.tiktoken
    return baselines


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return the seconds of every round, and whether the ids equal those of HF tokenizers."""
    factories = installed_baselines(bench)
    seconds: dict[str, list[float]] = {name: [] for name in factories}
    equal: dict[str, bool] = dict.fromkeys(factories, True)
    expected: Ids = bench.hf(fast=False)()()
    for number in range(rounds):
        for name, make in list(factories.items())[:: 1 if number % 2 else -1]:
            encode_all = make()
            start = time.perf_counter()
            ids_of = encode_all()
            seconds[name].append(time.perf_counter() - start)
            ids = ids_of()
            equal[name] &= all(np.array_equal(own, other) for own, other in zip(ids, expected, strict=True))
    return {"seconds": seconds, "equal": equal, "tokens": sum(map(len, expected))}


def rows(measured: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Return medians, and the medians of the ratios to HF tokenizers round by round."""
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
    arguments.add_argument("text", help="file, directory or glob of text")
    arguments.add_argument("--tokenizer", default="bpe:4096", help="bpe:SIZE to train one, or the directory of a BPE")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", type=Path, default=RESULTS)
    options = arguments.parse_args()
    texts = list(documents(parse_source(options.text)))
    size = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        loading.train(loading.parse(options.tokenizer), texts).save(Path(folder))
        bench = Bench(texts, Path(folder), options.processes)
        measured = measure(bench, options.rounds)
    result = {
        "environment": environment(),
        "tokenizer": Path(options.tokenizer).name,
        "text_bytes": size,
        "documents": len(texts),
        "tokens": measured["tokens"],
        "rounds": options.rounds,
        "rows": rows(measured, size),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'':<42}{'MB/s':>8}{'ratio':>8}  ids")
    for row in result["rows"]:
        same = "the same" if row["same_ids"] else "DIFFERENT"
        print(f"{row['name']:<42}{row['megabytes_per_second']:>8.1f}{row['ratio']:>8.2f}  {same}")


if __name__ == "__main__":
    main()
