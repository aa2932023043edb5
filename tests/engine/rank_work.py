"""What the processes of the tests of several devices do; started by ``launcher_torch.launch``."""

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


def batch(number: int, windows: int) -> Batch:
    """Windows of 32 ids; every third one ends in padding, so that the processes learn from unequal numbers."""
    chance = np.random.default_rng(number)
    ids = chance.integers(0, 256, (windows, 33), dtype=np.int32)
    targets = ids[:, 1:].copy()
    targets[::3, 20:] = IGNORE
    return Batch(ids[:, :-1], targets)


def trained(engine: Engine, first: int, last: int, windows: int) -> list[dict[str, float]]:
    return [engine.step(batch(number, windows), 1e-2).read() for number in range(first, last)]


def write(folder: Path, state: State) -> None:
    folder.mkdir(parents=True)
    for name, tensors in (("weights", state.weights), ("moments", state.optimizer_state)):
        (folder / name).write_bytes(b"".join(bytes(part) for part in dump_tensors(tensors)))
    (folder / "numbers").write_text(json.dumps(dict(state.scalars)))


def read(folder: Path) -> State:
    tensors = [load_tensors((folder / name).read_bytes(), where=name) for name in ("weights", "moments")]
    return State(tensors[0], tensors[1], json.loads((folder / "numbers").read_text()))


def learn(jobs: list[dict[str, Any]], folder: str) -> int:
    """Do every job with the same processes; the exit code of the first error, whose words are kept in ``folder``."""
    torch.set_num_threads(1)
    place = current_rank()
    try:
        with engines.init_distributed("torch", place, device="cpu") as ranks:
            ranks.init_collectives(30.0)
            for job in jobs:
                do(job, Path(folder), ranks)
    except FabellaError as error:
        (Path(folder) / f"error-{place.rank}").write_text(str(error))
        return error.exit_code
    return 0


def do(job: dict[str, Any], folder: Path, ranks: ProcessGroup) -> None:
    """Steps ``first`` to ``last``, from the state that the job ``before`` gave; its own, and what was measured."""
    engine = engines.create_engine(validate_config(job["run"]), device="cpu", group=ranks)
    if job["before"]:
        engine.restore(read(folder / job["before"]))
    measured = trained(engine, job["first"], job["last"], job["windows"])
    losses = engine.losses(batch(99, 5))
    with engine.evaluating() as model:
        logits = model(torch.from_numpy(batch(99, 1).tokens.astype(np.int64)))
    state = engine.state()
    place = ranks.rank_info
    last = place.rank == place.world_size - 1
    votes = [ranks.poll_max(int(last and number == 1)) for number in range(3)]
    told = ranks.broadcast(f"said by {place.rank}")
    if place.rank == 0:
        write(folder / job["out"], state)
        found = {"steps": measured, "losses": losses.tolist(), "logits": logits[0, -1].tolist()}
        (folder / job["out"] / "measured").write_text(json.dumps(found | {"votes": votes, "told": told}))
    ranks.broadcast("written")
