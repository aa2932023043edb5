"""Branch a run: a new run directory that begins with a checkpoint of another run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabella.run_config.files import validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import MODEL, Checkpoint, is_complete, is_marked, load, save, set_best
from fabella.runs.metrics_log import truncate_after
from fabella.runs.run_dir import BRANCH_FILES, CHANGES, PARENT, RunDir, step_name
from fabella.storage import atomic_write, manifest_entries, read_manifest, storage_errors
from fabella.tokenizers import loading as tokenizers

BEST_STATE = {"best_loss", "validations_since_best"}
LOGS = BRANCH_FILES[2:]


def branch(parent: RunDir, step: int, out: Path) -> RunDir:
    """Create a run in ``out`` that is ``parent`` as it was after ``step``: config, logs, checkpoint, and the best one.

    The checkpoint of ``step`` must exist; it is verified. Settings that were changed later are as they were before. If
    the best checkpoint of that time is gone, the branch has no best one until its next validation.
    Raise StorageError if ``out`` is not empty, CheckpointError if the checkpoint is damaged.
    """
    checkpoint = load(parent, step).checkpoint
    best = parent.read_pointer("best")
    best = best if best is not None and best <= step and is_complete(parent, best) else None
    progress = checkpoint.progress
    if best is None:
        progress = {name: value for name, value in progress.items() if name not in BEST_STATE}
    run = config_at(parent, step)

    def fill(created: RunDir) -> None:
        created.save_tokenizer(tokenizers.load(parent.path / "tokenizer"))
        for name in LOGS:
            _copy_log(parent.path / name, out / name, step)
        if best is not None and best < step:
            save(created, best, load(parent, best).checkpoint)
            set_best(created, best)
        save(
            created,
            step,
            Checkpoint(checkpoint.state, progress),
            scheduled=is_marked(parent, step, "scheduled"),
            keep=is_marked(parent, step, "keep"),
        )
        if best == step:
            set_best(created, step)

    return RunDir.create(out, run, _manifest(parent, step, out), fill=fill)


def config_at(run_dir: RunDir, step: int) -> RunConfig:
    """Return the config that a run had when it took the step after ``step``."""
    values = run_dir.run.model_dump(mode="json")
    for entry in reversed(run_dir.manifest.get(CHANGES, [])):
        if entry["step"] > step:
            before = {key: saved for key, (saved, _) in entry["settings"].items()}
            kinds = {key: value for key, value in before.items() if key.rpartition(".")[2] in {"kind", "family"}}
            others = {key: value for key, value in before.items() if key not in kinds and value is not None}
            values = with_sections(values, {**kinds, **others})
    return validate_config(values)


def parent_of(manifest: Mapping[str, Any]) -> str:
    """Return the parent of a branch as words: ``run-a, step 8,000 (sha256 0123456789ab)``; empty for other runs."""
    entry = manifest.get(PARENT)
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return ""
    return f"{entry.get('run')}, step {entry.get('step'):,} (sha256 {str(entry.get('model_sha256'))[:12]})"


def model_sha256(run_dir: RunDir, step: int) -> str:
    """Return the recorded sha256 of the weights of a checkpoint. Raise StorageError without a valid manifest."""
    path = run_dir.checkpoints / step_name(step)
    return str(manifest_entries(path, read_manifest(path))[MODEL]["sha256"])


def _manifest(parent: RunDir, step: int, out: Path) -> dict[str, Any]:
    manifest = {name: value for name, value in parent.manifest.items() if name not in {PARENT, "files"}}
    if isinstance(data := manifest.get("data"), dict) and "folder" in data:
        folder = (parent.path / data["folder"]).resolve()
        manifest["data"] = {**data, "folder": os.path.relpath(folder, out.resolve())}
    if CHANGES in manifest:
        manifest[CHANGES] = [entry for entry in manifest[CHANGES] if entry["step"] <= step]
    return {
        **manifest,
        PARENT: {
            "run": parent.path.resolve().name,
            "path": os.path.relpath(parent.path.resolve(), out.resolve()),
            "step": step,
            "model_sha256": model_sha256(parent, step),
        },
    }


def _copy_log(source: Path, target: Path, step: int) -> None:
    if source.exists():
        with storage_errors(source, f"reading {source.name}"):
            content = source.read_bytes()
        atomic_write(target, content)
        truncate_after(target, step)
