"""What was asked for in words becomes a run with its data: the one way of the command line and of ``fabella.train``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.config.data import Holdout, Pretokenized, Source
from fabella.data.dataset import TokenizedDataset, is_dataset, open_dataset
from fabella.data.fingerprint import dataset_fingerprint
from fabella.data.modes.mode import data_mode
from fabella.data.prepare.pipeline import PrepareProgress as Preparing
from fabella.data.prepare.pipeline import prepare
from fabella.engine import engine as engines
from fabella.errors import ConfigError, did_you_mean
from fabella.models.parameters import count
from fabella.run_config.files import apply_overrides, load_config, preset_names, validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.text.source import parse_source, source_files
from fabella.training.setup.suggest_config import suggest_config


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What to train: ``what`` is a preset, a YAML file, or a text as it is (file, folder, glob, storybook, hub:…)."""

    what: str
    data: str = ""
    """A source of text, or a folder that ``fabella prepare`` made; empty: the config's own source."""
    validation: str = ""
    """A source of text to validate on; empty: the config's own, or a held-out share of ``data``."""
    engine: str = ""
    steps: int = 0
    """Optimizer steps; 0: the config's own length."""
    overrides: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """The run that was asked for, the prepared folder it named (if it did), and what was chosen on the way."""

    run: RunConfig
    prepared: TokenizedDataset | None
    reasons: tuple[str, ...]


def resolve_request(asked: TrainRequest) -> ResolvedRequest:
    """Turn what was asked into a checked run. Raises ConfigError, TextError or PreparedDataError."""
    for given in (asked.data, asked.validation):
        _refuse_folder_of_prepared(given)
    prepared = open_dataset(Path(asked.data), full=True) if asked.data and is_dataset(Path(asked.data)) else None
    changes = _changes(asked, prepared)
    if asked.what in preset_names() or asked.what.endswith((".yaml", ".yml")):
        run = load_config(asked.what, asked.overrides, changes)
        engines.load(run.engine)  # one that cannot be used says so before anything is prepared
        return ResolvedRequest(_resolved(run, prepared), prepared, ())
    _refuse_misspelt(asked.what)
    _refuse_prepared(asked.what)
    _refuse_folder_of_prepared(asked.what)
    source = parse_source(asked.what)
    gpu = engines.load(asked.engine or "torch").has_gpu()
    choice = suggest_config(source, name_of(asked.what), size_of(source), gpu=gpu)
    values = with_sections(choice.run.model_dump(mode="json"), changes)
    run = validate_config(apply_overrides(values, asked.overrides))
    return ResolvedRequest(_resolved(run, prepared), prepared, choice.reasons_for(run))


def engine_of(asked: TrainRequest) -> str:
    """Which engine ``plan`` will choose, without looking at the data. Raises ConfigError for a config that is wrong."""
    chosen = [text.partition("=")[2].strip() for text in asked.overrides if text.partition("=")[0].strip() == "engine"]
    if chosen or asked.engine:
        return (chosen or [asked.engine])[-1]
    is_config = asked.what in preset_names() or asked.what.endswith((".yaml", ".yml"))
    return load_config(asked.what).engine if is_config else "torch"


def _resolved(run: RunConfig, prepared: TokenizedDataset | None) -> RunConfig:
    """Return the run with its data section as the data mode stores it. Raises ConfigError, as the mode does."""
    return run.model_copy(update={"data": data_mode(run.data.mode.kind).resolve(run.data, prepared)})


def _changes(asked: TrainRequest, prepared: TokenizedDataset | None) -> dict[str, Any]:
    """Dotted key → value, for what the options say."""
    changes: dict[str, Any] = {}
    if prepared:
        changes["data.source"] = prepared.manifest["data"]["source"]
        changes["data.validation"] = prepared.manifest["data"]["validation"]
        changes["data.mode"] = prepared.manifest["data"].get("mode", Pretokenized().model_dump())
        changes["tokenizer"] = prepared.manifest["tokenizer"]["section"]
    elif asked.data:
        changes["data.source"] = parse_source(asked.data).model_dump(mode="json")
        changes["data.validation"] = Holdout().model_dump(mode="json")
    if asked.validation:
        source = parse_source(asked.validation).model_dump(mode="json")
        changes["data.validation"] = {"kind": "source", "source": source}
    if asked.engine:
        changes["engine"] = asked.engine
    if asked.steps:
        changes["training.length"] = {"max_steps": asked.steps}
    return changes


def _refuse_misspelt(what: str) -> None:
    """A word that is no path: a preset is what was meant."""
    if Path(what).exists() or what == "storybook":
        return
    nearest = did_you_mean(what, preset_names())
    if nearest.startswith("Did you mean"):
        raise ConfigError(f"Unknown preset '{what}'.", hint=nearest)
    if re.fullmatch(r"[\w-]+", what):
        presets = ", ".join(preset_names())
        raise ConfigError(f"There is neither a file nor a preset '{what}'.", hint=f"Presets: {presets}.")


def _refuse_prepared(what: str) -> None:
    """Ids are no text: what they are to be learned by must be said."""
    if is_dataset(Path(what)):
        raise ConfigError(
            f"{what} is prepared data, and no text.",
            hint=f"Say what is to learn from it: fabella train PRESET --data {quote(what)}.",
        )


def _refuse_folder_of_prepared(what: str) -> None:
    """Prepared data lies in folders of its own, one of which is to be named; the files in them are no text."""
    folders = sorted(path.parent for path in Path(what).glob("*/manifest.json")) if what and Path(what).is_dir() else []
    inside = [folder for folder in folders if is_dataset(folder)]
    if inside:
        names = ", ".join(quote(str(folder)) for folder in inside[:5])
        more = f" and {len(inside) - 5:,} more" if len(inside) > 5 else ""
        raise ConfigError(f"{what} holds prepared data, and no text.", hint=f"Name one of its folders: {names}{more}.")


def name_of(what: str) -> str:
    """A name for the run of a text: ``stories/my tales.txt.gz`` → ``my-tales``."""
    stem = Path(what).name.split(".")[0] if Path(what).name.strip(".") else "text"
    return re.sub(r"[^\w-]+", "-", stem.replace(":", "-")).strip("-").lower() or "text"


def size_of(source: Source) -> int:
    """Bytes of text, about: file sizes, three times that of compressed ones; a guess for generated and hub text."""
    files = source_files(source)
    if not files:
        return 860 * getattr(source, "stories", 1_000_000)
    compressed = (".gz", ".xz", ".zst", ".parquet")
    return sum(path.stat().st_size * (3 if path.suffix in compressed else 1) for path in files)


def prepare_data(
    run: RunConfig, root: Path, *, workers: int = 0, progress: Callable[[Preparing], None] | None = None
) -> TokenizedDataset:
    """The run's data, prepared in a folder of ``root`` named after it, or taken from there if it already is.

    The folder's name holds a hash of all that decides the ids, contents of files included: what changes any of it
    makes another folder, and a file that was only touched does not.
    """
    inputs = dataset_fingerprint(run.data, run.tokenizer)
    folder = folder_for(run, root, inputs)
    return prepare(
        run.data,
        run.tokenizer,
        folder,
        workers=workers,
        progress=progress,
        # Of a stream only the head is looked at, which says nothing of whether there is text enough.
        model_parameters=count(run.model.parameters()) if data_mode(run.data.mode.kind).complete else 0,
        inputs=inputs,
    )


def folder_for(run: RunConfig, root: Path, inputs: str) -> Path:
    """Where ``prepare_for`` puts the data; ``inputs``: ``digest_of_inputs`` of the run."""
    return root / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', run.name)}-{inputs[:8]}"


def already_prepared(run: RunConfig, root: Path) -> TokenizedDataset | None:
    """The run's data if ``prepare_for`` has made it in ``root`` before. Raises TextError where the text is gone."""
    folder = folder_for(run, root, dataset_fingerprint(run.data, run.tokenizer))
    return open_dataset(folder) if is_dataset(folder) else None
