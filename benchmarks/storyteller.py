"""Put a trained run into the package as the included model, ``storyteller``, without what only training needs.

    fabella train benchmarks/storyteller.yaml --out runs/storyteller
    python -m benchmarks.storyteller runs/storyteller

The run keeps its config, tokenizer, samples, a part of its metrics, and the weights of its best checkpoint. The
optimizer state is left out, so that it can be fine-tuned (``--init-from storyteller``) but not resumed.
"""

import argparse
import json
import shutil
from pathlib import Path

from fabella.runs.checkpoint import MODEL, STATE
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import CONFIG, RunDir, step_name
from fabella.storage import MANIFEST, atomic_write, dump_manifest, read_manifest

TARGET = Path(__file__).parents[1] / "src" / "fabella" / "storyteller" / "run"
COPIED = (CONFIG, MANIFEST, "samples.jsonl", "tokenizer")
METRICS = "metrics.jsonl"
TRAIN_ROWS_EVERY = 100
"""Steps between the rows of the training loss that are kept."""


def include(run: Path, target: Path = TARGET) -> None:
    """Replace ``target`` by the best checkpoint of ``run``."""
    run_dir = RunDir.open(run)
    step = run_dir.read_pointer("best")
    assert step is not None, "a run with validation"
    if target.exists():
        shutil.rmtree(target)
    checkpoint = Path("checkpoints") / step_name(step)
    (target / checkpoint).mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, target / name)
    rows = [row for row in read_rows(run / METRICS) if row["kind"] != "train" or row["step"] % TRAIN_ROWS_EVERY == 0]
    (target / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in (MODEL, STATE):
        shutil.copy(run / checkpoint / name, target / checkpoint / name)
    manifest = read_manifest(run / checkpoint)
    files = {name: entry for name, entry in manifest["files"].items() if name in (MODEL, STATE)}
    atomic_write(target / checkpoint / MANIFEST, dump_manifest({**manifest, "files": files}))
    for pointer in ("best", "latest"):
        atomic_write(target / pointer, f"{step_name(step)}\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a trained run into the package as the included model.")
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    include(run)
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(json.dumps({"step": RunDir.open(TARGET).read_pointer("best"), "bytes": size}))


if __name__ == "__main__":
    main()
