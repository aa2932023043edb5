"""What a training writes in the manifest of its run, when it starts and when it resumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.engine.engine import Engine
from fabella.run_config.run import RunConfig
from fabella.runs.branch import InitialWeights, init_entry
from fabella.runs.checkpoint import restore_best
from fabella.runs.environment import environment
from fabella.runs.metrics_log import truncate_logs
from fabella.runs.resume_rules import compare_for_resume, compare_manifests, record_changes
from fabella.runs.run_dataset import ALSO, DATA, ValidationText, dataset_entry, remember_dataset, validation_entry
from fabella.runs.run_dir import CHANGES, FIRST_SCHEDULE, PARENT, RunDir
from fabella.storage.messages import escaped_path
from fabella.training.loop import callback_name
from fabella.training.schedule import batch_size_at
from fabella.training.session import Extras, ResumeState, TrainingSession
from fabella.training.setup.extend import describe_rates


def record_resume(
    session: TrainingSession,
    saved_run: RunDir,
    step: int,
    saved: ResumeState,
    other_texts: Mapping[str, ValidationText],
) -> None:
    """Write what a resume after ``step`` changes in the run directory: log rows, pointer, tokenizer, manifest, config.

    ``saved``: the progress of the checkpoint of ``step``.
    """
    run_dir, dataset = session.run_dir, session.dataset
    truncate_logs(run_dir.path, step)
    restore_best(run_dir, saved)
    if not (run_dir.path / "tokenizer").exists():  # killed after creating the directory
        run_dir.save_tokenizer(dataset.tokenizer)
    changes = record_changes(run_dir.manifest.get(CHANGES, []), saved_run.run, session.run, step)
    entries: dict[str, Any] = {CHANGES: changes} if changes or CHANGES in run_dir.manifest else {}
    known: Mapping[str, Any] = run_dir.manifest.get(ALSO, {})
    if added := {path: text for path, text in other_texts.items() if path not in known}:
        entries[ALSO] = {**known, **validation_entry(added, run_dir.path)[ALSO]}
    recorded = remember_dataset(run_dir, dataset).with_manifest(**entries)
    if session.run != saved_run.run or entries:
        recorded.with_config(session.run)


def print_changes(session: TrainingSession, saved_run: RunDir, step: int) -> None:
    """Print what is different in a run that resumes after ``step``: settings, learning rates, environment, callbacks.

    Call it when nothing can refuse the resume any more. Raise ConfigError for a dataset or tokenizer of another run.
    """
    manifest, now = saved_run.manifest, manifest_of(saved_run.path, session.dataset, session.engine)
    environment_changes = compare_manifests(manifest, now)
    for line in (*_describe_parent(saved_run, step), *_describe_settings(saved_run.run, session.run, step)):
        session.print(line)
    for difference in environment_changes:
        if difference.verdict == "warn":
            session.print(f"warning: the environment differs from the one the run started in: {difference}")
    before, after = manifest.get("callbacks", []), _user_callbacks(session.extras).get("callbacks", [])
    if before != after:
        session.print(
            f"warning: the run started with the callbacks [{', '.join(before)}] and resumes with [{', '.join(after)}]"
        )


def _describe_parent(run_dir: RunDir, step: int) -> list[str]:
    """Return a line with the run that a branch continues; none for a branch that has taken steps of its own."""
    parent = run_dir.manifest.get(PARENT)
    if not isinstance(parent, dict) or parent.get("step") != step:
        return []
    return [f"{escaped_path(run_dir.path)} begins with step {step:,} of {parent.get('run')}."]


def _describe_settings(saved: RunConfig, requested: RunConfig, step: int) -> list[str]:
    """Return the changed settings, and learning rates and batch sizes before and after ``step`` where those change."""
    lines = [str(difference) for difference in compare_for_resume(saved, requested)]
    if step and (saved.optimizer, saved.training.length) != (requested.optimizer, requested.training.length):
        lines += describe_rates(saved, requested, step)
    before, after = batch_size_at(saved.training, step), batch_size_at(requested.training, step)
    if step and before != after:
        lines.append(f"Batch: {before:,} sequences before, {after:,} from step {step + 1:,} on.")
    return lines


def manifest_of(out: Path, dataset: TokenizedDataset, engine: Engine) -> dict[str, Any]:
    """Return what the manifest says about environment and data, at the start of a run in ``out`` and now."""
    return {
        "environment": environment() | engine.describe(),
        DATA: dataset_entry(dataset, out),
        "tokenizer": dataset.tokenizer.fingerprint,
    }


def first_manifest(
    session: TrainingSession, initial: InitialWeights | None, other_texts: Mapping[str, ValidationText]
) -> dict[str, Any]:
    """Return the manifest of a new run, which begins with the weights ``initial``."""
    run, out = session.run, session.run_dir.path
    manifest = manifest_of(out, session.dataset, session.engine) | _user_callbacks(session.extras)
    manifest |= validation_entry(other_texts, out) | (
        init_entry(initial, session.dataset.tokenizer, out) if initial else {}
    )
    return manifest | {FIRST_SCHEDULE: [phase.model_dump(mode="json") for phase in run.optimizer.schedule]}


def _user_callbacks(extras: Extras) -> dict[str, list[str]]:
    """Return the manifest's names of user callbacks, which are not part of the config but can affect the weights."""
    names = [callback_name(callback) for callback in extras.user_callbacks]
    return {"callbacks": names} if names else {}
