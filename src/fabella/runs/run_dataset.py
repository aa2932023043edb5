"""The dataset of a run: find it, also after a move, and compare it with a changed config."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.config.data import DataConfig, FilesSource, MixtureSource, Packed, Padded, Pretrained, Source
from fabella.data.dataset import TokenizedDataset, datasets_in, is_dataset, open_dataset
from fabella.data.fingerprint import text_fingerprint
from fabella.data.modes.mode import data_mode
from fabella.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LockedError,
    PreparedDataError,
    StorageError,
    TextError,
)
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.storage import escaped
from fabella.storage.messages import escaped_path
from fabella.text.source import source_files
from fabella.tokenizers import loading
from fabella.tokenizers.pretrained import added_tokens

DATA = "data"
"""Manifest entry of the dataset: ``fingerprint``, and ``folder``, its path relative to the run directory."""


ALSO = "validation_also"
"""Manifest entry of ``validation.also``: path → ``name``, ``sequences``, and ``fingerprint`` and ``folder`` of DATA."""


def dataset_entry(dataset: TokenizedDataset, run: Path) -> dict[str, str]:
    """Return the manifest entry of the dataset of a run."""
    return {"fingerprint": dataset.fingerprint, "folder": os.path.relpath(dataset.path.resolve(), run.resolve())}


def open_run_dataset(run_dir: RunDir, moved: Path | None = None, *, full: bool = False) -> TokenizedDataset:
    """Open the dataset that a run was started with; ``moved`` is its new path. ``full``: verify every file.

    Raises PreparedDataError if it is missing, has changed or is another one.
    """
    dataset = find_run_dataset(run_dir, moved, full=full)
    if dataset is None:
        recorded = (run_dir.path / _entry(run_dir)["folder"]).resolve()
        raise PreparedDataError(
            f"The dataset of {escaped_path(run_dir.path)} is missing: there is no directory {escaped_path(recorded)}.",
            hint=f"If it was moved, give its new path once, with --data. {_prepare_again(run_dir)}",
        )
    return dataset


def find_run_dataset(run_dir: RunDir, moved: Path | None = None, *, full: bool = False) -> TokenizedDataset | None:
    """Return the same; None if it is missing.

    A dataset that is not where the manifest says is also found by its name in ``prepared``, next to the run, and in
    directories ``prepared`` one and two levels above the run.
    """
    entry = _entry(run_dir)
    recorded = (run_dir.path / entry["folder"]).resolve()
    if moved is None and not recorded.exists():
        return _find_moved(run_dir.path.resolve(), recorded.name, entry["fingerprint"], full=full)
    dataset = open_dataset(_chosen(moved, entry["fingerprint"]) if moved else recorded, full=full)
    if dataset.fingerprint != entry["fingerprint"]:
        raise PreparedDataError(
            f"The dataset in {dataset.path} is not the one that run {run_dir.path} started with "
            f"(fingerprint {dataset.fingerprint[:12]} instead of {entry['fingerprint'][:12]}).",
            hint=f"Give the original dataset with --data. {_prepare_again(run_dir)}",
        )
    return dataset


def _chosen(path: Path, fingerprint: str) -> Path:
    """Return the path of a dataset, of a directory with several the one of the run; without it, the path itself."""
    inside = [] if is_dataset(path) else datasets_in(path)
    return next((found for found in inside if open_dataset(found).fingerprint == fingerprint), path)


def _find_moved(run: Path, name: str, fingerprint: str, *, full: bool) -> TokenizedDataset | None:
    for parent in (Path("prepared"), run.parent, run.parent / "prepared", run.parent.parent / "prepared"):
        if is_dataset(parent / name) and (dataset := open_dataset(parent / name)).fingerprint == fingerprint:
            return open_dataset(parent / name, full=True) if full else dataset
    return None


@dataclass(frozen=True, slots=True)
class ValidationText:
    """A text of ``validation.also``: a dataset whose validation split is scored, and how it is cut into sequences."""

    name: str
    """Name of its run or dataset"""
    dataset: TokenizedDataset
    sequences: Packed | Padded


def open_validation_texts(run: RunConfig, dataset: TokenizedDataset) -> dict[str, ValidationText]:
    """Return path → text for the runs and datasets of ``validation.also``. The text of a run is cut as that run does.

    Raise CheckpointError or PreparedDataError for one that is missing or damaged, ConfigError for one with another
    tokenizer than that of ``dataset``, which may have special tokens in addition.
    """
    return {path: _open_validation_text(path, run, dataset) for path in run.validation.also}


def _open_validation_text(path: str, run: RunConfig, dataset: TokenizedDataset) -> ValidationText:
    if (Path(path) / CONFIG).is_file():
        other = RunDir.open(Path(path))
        text = ValidationText(other.path.resolve().name, open_run_dataset(other), other.run.data.sequences)
    else:
        text = ValidationText(Path(path).resolve().name, open_dataset(Path(path)), run.data.sequences)
    if added_tokens(dataset.tokenizer, text.dataset.tokenizer) is None:
        raise ConfigError(
            f"validation.also: {escaped(path)} has another tokenizer than this run, so its token ids mean other text.",
            hint=f"Prepare its text with the tokenizer of this run: fabella prepare TEXT --tokenizer "
            f"{quote(escaped_path(dataset.path))} --out DIRECTORY",
        )
    return text


def validation_entry(texts: Mapping[str, ValidationText], run: Path) -> dict[str, Any]:
    """Return the manifest entry ALSO of a run with these texts; empty without any."""
    entries = {
        path: {
            "name": text.name,
            "sequences": text.sequences.model_dump(mode="json"),
            **dataset_entry(text.dataset, run),
        }
        for path, text in texts.items()
    }
    return {ALSO: entries} if entries else {}


def find_validation_texts(
    run_dir: RunDir, run: RunConfig, dataset: TokenizedDataset, report: Callable[[str], None]
) -> dict[str, ValidationText]:
    """Return the same for a run that is resumed, from its manifest: the runs that they come from may be gone.

    A dataset that is missing or has changed is reported and left out, because its loss decides nothing.
    """
    recorded: Mapping[str, Any] = run_dir.manifest.get(ALSO, {})
    texts: dict[str, ValidationText] = {}
    for path in run.validation.also:
        if path not in recorded:  # added by this command
            texts[path] = _open_validation_text(path, run, dataset)
            continue
        entry = recorded[path]
        folder = (run_dir.path / entry["folder"]).resolve()
        try:
            found = open_dataset(folder if folder.exists() else Path(path))
        except (DataError, StorageError) as error:
            report(f"The text of {escaped(path)} is not scored any more: {error.message}")
            continue
        if found.fingerprint == entry["fingerprint"]:
            sequences = DataConfig.model_validate({"sequences": entry["sequences"]}).sequences
            texts[path] = ValidationText(entry["name"], found, sequences)
        else:
            report(f"The text of {escaped(path)} is not scored any more: {escaped_path(found.path)} has changed.")
    return texts


def remember_dataset(run_dir: RunDir, dataset: TokenizedDataset) -> RunDir:
    """Record where the dataset of a run is now. Call it under ``run_dir.lock()``."""
    return run_dir.with_manifest(**{DATA: dataset_entry(dataset, run_dir.path)})


def remember_if_unlocked(run_dir: RunDir, dataset: TokenizedDataset, report: Callable[[str], None]) -> None:
    """Record where the dataset of a run is now; if another process trains the run, only report that."""
    try:
        with run_dir.lock():
            remember_dataset(run_dir, dataset)
    except LockedError as error:
        report(f"The new path of the dataset is not recorded: {error.message}")


def require_same_data(
    run_dir: RunDir, requested: RunConfig, dataset: TokenizedDataset, *, always: bool = False
) -> None:
    """Raise ConfigError if text files or a tokenizer of the config ``requested`` are not those of the run.

    The text of a stream is compared in any case, other text if its paths have changed, or ``always``.
    Raises TextError if the text of a stream is missing, TokenizerError if a changed tokenizer is.
    """
    saved, tokenizer = run_dir.run, requested.tokenizer
    if isinstance(tokenizer, Pretrained) and tokenizer != saved.tokenizer:
        _require_same_tokenizer(run_dir, tokenizer, dataset)
    moved = requested.data != saved.data
    if data_mode(requested.data.mode.kind).complete:
        same = not (moved or always) or text_fingerprint(requested.data) == dataset.manifest.get("text")
    else:
        same = _fingerprint_of_stream(run_dir, requested.data) == dataset.manifest.get("text")
    if not same:
        what = "names another text" if moved else "names text that has changed"
        raise ConfigError(
            f"data.source of {escaped_path(run_dir.path)} {what}: it differs from the one that the run started with.",
            hint=f"Resume with the original text, or start a new run: {_new_run(run_dir, *_paths_setting(requested))}",
        )


def _require_same_tokenizer(run_dir: RunDir, tokenizer: Pretrained, dataset: TokenizedDataset) -> None:
    if loading.train(tokenizer, ()).fingerprint != dataset.tokenizer.fingerprint:
        raise ConfigError(
            f"tokenizer.source = {escaped(tokenizer.source)} is not the tokenizer of {escaped_path(run_dir.path)}.",
            hint=f"To start a new run with it: {_new_run(run_dir, f'tokenizer.source={tokenizer.source}')}",
        )


def _fingerprint_of_stream(run_dir: RunDir, data: DataConfig) -> str:
    try:
        return text_fingerprint(data)
    except TextError as error:
        raise TextError(
            error.message,
            hint=f"If it was moved, give its new path once: fabella resume {_quoted(run_dir.path)} "
            f"'{_missing_paths(data.source)}=[NEW-PATH]'",
        ) from None


def _missing_paths(source: Source, key: str = "data.source") -> str:
    """Return the setting with the paths of the first part of a source whose files are missing."""
    if isinstance(source, MixtureSource):
        keys = [_missing_paths(part.source, f"{key}.parts.{n}.source") for n, part in enumerate(source.parts)]
        return next((found for found in keys if found), keys[0])
    try:
        source_files(source)
    except TextError:
        return f"{key}.paths"
    return "" if ".parts." in key else f"{key}.paths"


def _entry(run_dir: RunDir) -> Mapping[str, str]:
    entry = run_dir.manifest.get(DATA, {})
    if not {"folder", "fingerprint"} <= set(entry):
        if "imported_from" in run_dir.manifest:
            raise CheckpointError(
                f"{escaped_path(run_dir.path)} was imported: its training text is not known.",
                hint=f"Score it on a text with: fabella evaluate {_quoted(run_dir.path)} --text TEXT --num-samples 0 "
                f"--num-cloze 0. Train it on a text with: fabella train TEXT --init-from {_quoted(run_dir.path)}",
            )
        raise CheckpointError(f"The manifest of {escaped_path(run_dir.path)} does not name the dataset of the run.")
    return entry


def _prepare_again(run_dir: RunDir) -> str:
    run, config = _quoted(run_dir.path), _quoted(run_dir.path / CONFIG)
    return f"To prepare it from its text again: fabella train {config} --out {run} --resume"


def _new_run(run_dir: RunDir, *settings: str) -> str:
    """Return the command that trains a new run with the config of this one and with ``settings``."""
    config, out = run_dir.path / CONFIG, run_dir.path.with_name(f"{run_dir.path.name}-new")
    words = ["fabella", "train", escaped_path(config), *settings, "--out", escaped_path(out)]
    return " ".join(quote(word) for word in words)


def _paths_setting(requested: RunConfig) -> list[str]:
    return list(_all_paths(requested.data.source, "data.source"))


def _all_paths(source: Source, key: str) -> Iterator[str]:
    """Yield the paths of a source, or of each part of a mixture, as settings."""
    if isinstance(source, FilesSource):
        yield f"{key}.paths={json.dumps(source.paths)}"
    elif isinstance(source, MixtureSource):
        for number, part in enumerate(source.parts):
            yield from _all_paths(part.source, f"{key}.parts.{number}.source")


def _quoted(path: Path) -> str:
    return quote(escaped_path(path))
