"""Process that runs a few steps and measures them: ``python -m fabella.planning.probe_worker``, for probe.py."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fabella.data.batches import Batch
from fabella.data.child_process import Frame, Handler, serve
from fabella.data.dataset import open_dataset
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import SequenceDataset, first_id, packed_batch
from fabella.engine import engine as engines
from fabella.models import IGNORE
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig


def open_handler(request: dict[str, Any]) -> Handler:
    """Return the handler that runs the steps of ``request`` and returns the measurements as JSON."""

    def handle(_parts: Frame) -> list[bytes]:
        prefer_oom_kill()
        run = validate_config(request["run"])
        memory = engines.backend(run.engine, "measure.memory")
        try:
            result = measure(run, request, memory)
        except (MemoryError, RuntimeError, OSError) as error:
            if not memory.is_out_of_memory(error):
                raise
            result = {"reason": "memory"}
        return [json.dumps(result).encode()]

    return handle


def prefer_oom_kill() -> None:
    """Let Linux kill this process, not its parent, when the machine runs out of memory."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def measure(run: RunConfig, request: dict[str, Any], memory: Any) -> dict[str, Any]:
    """Take a warm-up step and the requested steps; return their seconds and the peak memory."""
    device: str = request["device"]
    if request["device_limit"]:
        memory.limit_memory(device, request["device_limit"])
    before = psutil.Process().memory_info().rss
    engine = engines.create_engine(run, device=device)
    batches = _batches(run, request["prepared"])
    seconds: list[list[float]] = []
    for number, count in enumerate([1, *request["micro_batches"]]):
        micro_batches = [next(batches) for _ in range(count)]
        begin = time.perf_counter()
        engine.step(_concatenate(micro_batches), 0.0).read()  # learning rate 0: the same work, unchanged weights
        if number:
            seconds.append([count, time.perf_counter() - begin])
    peak = memory.peak_memory(device)
    return {
        "seconds": seconds,
        "peak_bytes": peak_rss() if peak is None else peak,
        "program_bytes": before,
        "on_gpu": peak is not None,
        "engine": engine.describe(),
    }


def _batches(run: RunConfig, prepared: str) -> Iterator[Batch]:
    """Yield micro-batches of the dataset of the run, or of random ids in full sequences."""
    size = run.training.micro_batch_size
    if prepared:
        data = open_dataset(Path(prepared))
        sequences = SequenceDataset(data.train, run.data.sequences, data.tokenizer.eos_id, bos_id=data.tokenizer.bos_id)
        sampler, start = PermutationSampler(len(sequences), run.seed), 0
        while True:
            yield sequences.batch(sampler.sequences(start, start + size))
            start += size
    random = np.random.default_rng(0)
    while True:
        ids = random.integers(0, run.model.vocab_size, (size, run.data.sequences.length + 1)).astype(np.int32)
        yield packed_batch(ids[:, :-1].copy(), ids[:, 1:].copy(), first_id(run.data.sequences, 0, None))


def _concatenate(batches: list[Batch]) -> Batch:
    """Concatenate micro-batches into one global batch, padded to the longest."""
    length = max(batch.tokens.shape[1] for batch in batches)

    def padded(array: Any, value: int) -> Any:
        return np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=value)

    arrays = [
        {name: padded(array, IGNORE if name == "targets" else 0) for name, array in batch.arrays().items()}
        for batch in batches
    ]
    return Batch.of({name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})


def peak_rss() -> int:
    """Return the peak resident memory of this process in bytes; the current one if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss includes the parent
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        return psutil.Process(os.getpid()).memory_info().rss


if __name__ == "__main__":
    serve(open_handler)
