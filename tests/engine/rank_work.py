"""Functions that the ranks of the distributed tests run; ``launcher_torch.launch`` starts them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fabella.data.batches import Batch
from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.engine.engine import Engine, State
from fabella.engine.rank import current_rank
from fabella.errors import FabellaError
from fabella.models import IGNORE
from fabella.run_config.files import validate_config
from fabella.runs.safetensors_io import dump_tensors, load_tensors

FILES = ("weights", "moments", "average")


def batch(number: int, num_sequences: int) -> Batch:
    """Return sequences of 32 ids in documents of 7; every third one is padded, for other numbers of targets."""
    generator = np.random.default_rng(number)
    ids = generator.integers(0, 256, (num_sequences, 33), dtype=np.int32)
    targets = ids[:, 1:].copy()
    targets[::3, 20:] = IGNORE
    starts = np.broadcast_to(np.arange(32, dtype=np.int32) // 7 * 7, targets.shape).copy()
    return Batch(ids[:, :-1], targets, starts)


def train(engine: Engine, first: int, last: int, num_sequences: int) -> list[dict[str, float]]:
    return [engine.step(batch(number, num_sequences), 1e-2).read() for number in range(first, last)]


def write(folder: Path, state: State) -> None:
    folder.mkdir(parents=True)
    for name, tensors in zip(FILES, (state.weights, state.optimizer_state, state.average), strict=True):
        (folder / name).write_bytes(b"".join(bytes(part) for part in dump_tensors(tensors)))
    (folder / "numbers").write_text(json.dumps(dict(state.scalars)))


def read(folder: Path) -> State:
    weights, moments, average = (load_tensors((folder / name).read_bytes(), where=name) for name in FILES)
    return State(weights, moments, json.loads((folder / "numbers").read_text()), average)


def run_jobs(jobs: list[dict[str, Any]], folder: str) -> int:
    """Run all jobs in these processes. Return the exit code of an error, and write its message to ``folder``."""
    torch.set_num_threads(1)
    rank_info = current_rank()
    try:
        with engines.init_distributed("torch", rank_info, device="cpu") as group:
            group.init_collectives(30.0)
            for job in jobs:
                run_job(job, Path(folder), group)
    except FabellaError as error:
        (Path(folder) / f"error-{rank_info.rank}").write_text(str(error))
        return error.exit_code
    return 0


def run_job(job: dict[str, Any], folder: Path, group: ProcessGroup) -> None:
    """Run the steps ``first`` to ``last`` from the state of the job ``before``; write state and results."""
    engine = engines.create_engine(validate_config(job["run"]), device="cpu", group=group)
    if job["before"]:
        engine.restore(read(folder / job["before"]))
    metrics = train(engine, job["first"], job["last"], job["num_sequences"])
    losses = engine.losses(batch(99, 5))
    with engine.using_average():
        average_losses = engine.losses(batch(99, 5))
    with engine.evaluating() as model:
        logits = model(torch.from_numpy(batch(99, 1).tokens.astype(np.int64)))
    state = engine.state()
    rank_info = group.rank_info
    last = rank_info.rank == rank_info.world_size - 1
    votes = [group.poll_max(int(last and number == 1)) for number in range(3)]
    received = group.broadcast(f"sent by {rank_info.rank}")
    if rank_info.rank == 0:
        write(folder / job["out"], state)
        results = {"steps": metrics, "losses": losses.tolist(), "logits": logits[0, -1].tolist()}
        results["average_losses"] = average_losses.tolist()
        (folder / job["out"] / "measured").write_text(json.dumps(results | {"votes": votes, "received": received}))
    group.broadcast("written")
