"""Begin a run with a checkpoint of another one: continue it as a branch, or start with its weights only."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.engine.engine import State
from fabella.errors import CheckpointError
from fabella.models.model_config import ModelConfig
from fabella.optim.registry import zero_state
from fabella.run_config.files import validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import (
    BEST_STEP,
    MODEL,
    Checkpoint,
    best_step,
    is_complete,
    is_marked,
    latest_valid_step,
    load,
    save,
    set_best,
)
from fabella.runs.metrics_log import truncate_after
from fabella.runs.run_dir import (
    BRANCH_FILES,
    CHANGES,
    CHECKPOINTS,
    INIT_FROM,
    PARENT,
    RunDir,
    parse_step,
    step_name,
)
from fabella.storage import atomic_write, manifest_entries, read_manifest, storage_errors
from fabella.storage.messages import escaped_path
from fabella.storyteller import NAME, name_of_run, run_or_included
from fabella.tokenizers import loading as tokenizers
from fabella.tokenizers.pretrained import added_tokens
from fabella.tokenizers.tokenizer import Tokenizer

BEST_STATE = {"best_loss", BEST_STEP, "validations_since_best"}
LOGS = BRANCH_FILES[2:]
OTHER_FORMATS = {".gguf", ".bin", ".safetensors"}
"""Suffixes of models that ``fabella import`` reads."""


@dataclass(frozen=True, slots=True, repr=False)
class InitialWeights:
    """Weights that a new run begins with, and what belongs to them: config, tokenizer, and where they come from."""

    run_dir: RunDir
    """The run that they are a checkpoint of"""
    step: int
    """Step of this checkpoint"""
    weights: Mapping[str, NDArray[np.float32]]
    """By the names of the parameter table"""
    tokenizer: Tokenizer
    model_sha256: str

    @property
    def run(self) -> RunConfig:
        """Config of the run that has trained or imported the weights."""
        return self.run_dir.run

    def __str__(self) -> str:
        return f"{self.name}, step {self.step:,}"

    @property
    def name(self) -> str:
        """The run of the weights, as a command takes it."""
        path = self.run_dir.path
        return NAME if path == run_or_included(Path(NAME)) else escaped_path(path)


def load_initial_weights(path: Path) -> InitialWeights:
    """Return the weights of a run, or of its checkpoint RUN/checkpoints/step-….

    Of a run: those of the best checkpoint, which ``fabella generate`` uses, too; of a run without validation the
    latest. A damaged checkpoint is never replaced by another one. Raise CheckpointError if there is no such run or
    checkpoint, or if it is damaged; UnknownFamilyError for a family that this machine does not know or trust.
    """
    step = parse_step(path.name) if path.parent.name == CHECKPOINTS else None
    inside = path.parent if parse_step(path.parent.name) is not None and path.is_file() else None
    if inside is not None:
        raise CheckpointError(
            f"{escaped_path(path)} is a file of a checkpoint.", hint=f"Give the checkpoint: {escaped_path(inside)}"
        )
    _reject_other_format(path)
    run_dir = RunDir.open(run_path(path))
    if step is None:
        step = run_dir.read_pointer("best")
    if step is None:
        step = run_dir.read_pointer("latest")
    if step is None:
        step = latest_valid_step(run_dir)
    if step is None:
        run = escaped_path(run_dir.path)
        raise CheckpointError(f"{run} has no checkpoint yet.", hint=f"Train it: fabella resume {quote(run)}")
    weights = load(run_dir, step, weights_only=True).checkpoint.state.weights
    for name, array in weights.items():
        if not np.isfinite(array).all():
            where = f"{escaped_path(run_dir.path)}, {step_name(step)}"
            raise CheckpointError(f"{where}: {name} is not finite.", hint="Give another checkpoint of the run.")
    tokenizer = tokenizers.load(run_dir.path / "tokenizer")
    return InitialWeights(run_dir, step, weights, tokenizer, model_sha256(run_dir, step))


def _reject_other_format(path: Path) -> None:
    """Raise CheckpointError for the model of another tool, which must be imported."""
    if (path / "config.json").is_file() or path.suffix.lower() in OTHER_FORMATS:
        out = quote(f"runs/{path.stem}")
        raise CheckpointError(
            f"{escaped_path(path)} is a model of another format, not a run.",
            hint=f"Import it first: fabella import {quote(escaped_path(path))} --out {out}. Then use --init-from {out}",
        )


def run_path(path: Path) -> Path:
    """Return the run of a checkpoint RUN/checkpoints/step-…, that of ``storyteller``, and any other path as it is."""
    is_checkpoint = path.parent.name == CHECKPOINTS and parse_step(path.name) is not None
    return run_or_included(path.parent.parent if is_checkpoint else path)


def origin_name(path: Path) -> str:
    """Return the name of the run of ``path`` in INIT_FROM of the runs that begin with its weights."""
    return name_of_run(run_path(path))


def begin_with(initial: InitialWeights, tokenizer: Tokenizer, created: RunDir) -> None:
    """Save the weights as the checkpoint of step 0 of a new run, with an optimizer state of zeros.

    ``tokenizer``: that of the new run, which may have more special tokens. The run then needs neither the other run nor
    another way to resume. ``RunDir.create`` takes this as ``fill``, with the first two arguments given.
    """
    zeros = zero_state(created.run.trainable_parameters, created.run.optimizer)
    weights = with_new_ids(initial, created.run.model, tokenizer.vocab_size)
    state = State(weights, zeros, {"step": 0, "updates": 0})
    save(created, 0, Checkpoint(state, {"step": 0, "sequences": 0, "tokens": 0}), scheduled=True)


def with_new_ids(initial: InitialWeights, model: ModelConfig, ids: int) -> Mapping[str, NDArray[np.float32]]:
    """Return the weights for ``ids`` ids in a model that may have more rows than the one they are of.

    A new id begins with the mean of the rows of all others, in every parameter that has a row for each id.
    """
    used = initial.tokenizer.vocab_size
    if ids <= used:
        return initial.weights
    before, shapes = initial.run.model, model.parameters()
    taller = before.model_copy(update={"vocab_size": before.vocab_size + 1}).parameters()
    weights = dict(initial.weights)
    for name, spec in before.parameters().items():
        if spec.shape != taller[name].shape:
            mean = weights[name][:used].mean(axis=0, dtype=np.float64).astype(np.float32)
            grown = np.broadcast_to(mean, shapes[name].shape).copy()
            grown[: len(weights[name])] = weights[name]
            grown[used:ids] = mean
            weights[name] = grown
    return weights


def init_entry(initial: InitialWeights, tokenizer: Tokenizer, out: Path) -> dict[str, Any]:
    """Return the manifest entry INIT_FROM of a run in ``out``, with the special tokens new in ``tokenizer``."""
    added = added_tokens(tokenizer, initial.tokenizer)
    entry = _origin(initial.run_dir, initial.step, out)
    return {INIT_FROM: {**entry, **({"added_tokens": list(added)} if added else {})}}


def branch(parent: RunDir, step: int, out: Path) -> RunDir:
    """Create a run in ``out`` that is ``parent`` as it was after ``step``: config, logs, checkpoint, and the best one.

    The checkpoint of ``step`` must exist; it is verified. Settings that were changed later are as they were before. If
    the best checkpoint of that time is gone, the branch has no best one until its next validation.
    Raise StorageError if ``out`` is not empty, CheckpointError if the checkpoint is damaged.
    """
    checkpoint = load(parent, step).checkpoint
    best = best_step(checkpoint.progress)
    best = parent.read_pointer("best") if best is None else best
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


def parent_of(manifest: Mapping[str, Any], key: str = PARENT) -> str:
    """Return the parent of a branch as words: ``run-a, step 8,000 (sha256 0123456789ab)``; empty for other runs.

    ``key``: INIT_FROM returns the run and checkpoint whose weights the run began with.
    """
    entry = manifest.get(key)
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return ""
    return f"{entry.get('run')}, step {entry.get('step'):,} (sha256 {str(entry.get('model_sha256'))[:12]})"


def model_sha256(run_dir: RunDir, step: int, file: str = MODEL) -> str:
    """Return the recorded sha256 of the weights of a checkpoint. Raise StorageError without a valid manifest.

    ``file``: AVERAGE for their average, which the checkpoint must have.
    """
    path = run_dir.checkpoints / step_name(step)
    return str(manifest_entries(path, read_manifest(path))[file]["sha256"])


def _manifest(parent: RunDir, step: int, out: Path) -> dict[str, Any]:
    manifest = {name: value for name, value in parent.manifest.items() if name not in {PARENT, "files"}}
    if isinstance(data := manifest.get("data"), dict) and "folder" in data:
        folder = (parent.path / data["folder"]).resolve()
        manifest["data"] = {**data, "folder": os.path.relpath(folder, out.resolve())}
    if CHANGES in manifest:
        manifest[CHANGES] = [entry for entry in manifest[CHANGES] if entry["step"] <= step]
    if isinstance(origin := manifest.get(INIT_FROM), dict) and isinstance(origin.get("path"), str):
        path = (parent.path / origin["path"]).resolve()
        manifest[INIT_FROM] = {**origin, "path": os.path.relpath(path, out.resolve())}
    return {**manifest, PARENT: _origin(parent, step, out)}


def _origin(run_dir: RunDir, step: int, out: Path) -> dict[str, Any]:
    """Return a manifest entry that names a checkpoint, for a run in ``out``."""
    return {
        "run": name_of_run(run_dir.path),
        "path": os.path.relpath(run_dir.path.resolve(), out.resolve()),
        "step": step,
        "model_sha256": model_sha256(run_dir, step),
    }


def _copy_log(source: Path, target: Path, step: int) -> None:
    if source.exists():
        with storage_errors(source, f"reading {source.name}"):
            content = source.read_bytes()
        atomic_write(target, content)
        truncate_after(target, step)
