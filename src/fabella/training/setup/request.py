"""Resolve a request to a config and its dataset, for the command line and ``fabella.train``."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.config.data import FilesSource, KeepDuplicates, Pretokenized, Source, ValidationSource
from fabella.data.dataset import TokenizedDataset, datasets_in, is_dataset, open_dataset
from fabella.data.fingerprint import dataset_fingerprint, text_settings
from fabella.data.modes.mode import data_mode
from fabella.data.prepare.pipeline import PrepareProgress as Preparing
from fabella.data.prepare.pipeline import prepare
from fabella.engine import engine as engines
from fabella.errors import ConfigError, UsageError
from fabella.models.parameters import count
from fabella.run_config.files import (
    apply_overrides,
    load_config,
    preset_names,
    validate_config,
    value_of,
    with_sections,
)
from fabella.run_config.run import RunConfig
from fabella.storage import recognize
from fabella.storage.recognize import RUN
from fabella.text.source import parse_sources, source_files, with_read_options
from fabella.training.setup.fit_sequences import Unsuitable, estimate_sequences, fit_sequences
from fabella.training.setup.request_settings import (
    is_config,
    reject_misspelled_preset,
    require_text_for,
    sets_vocab_size,
    source_settings,
    with_reading,
    with_vocab_size,
)
from fabella.training.setup.suggest_config import HOLDOUT, suggest_config


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """Options of ``fabella train`` and ``fabella.train``."""

    what: str
    """Preset, YAML file, or text source (file, directory, glob, storybook, hub:…)"""
    more: Sequence[str] = ()
    """Further files, directories and globs of the same text: of ``data`` if that is given, else of ``what``"""
    reading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Changed settings of the source, and of the validation source: ``{"column": "story"}``"""
    data: str = ""
    """Text source or dataset directory; empty: the source of the config"""
    init_from: str = ""
    """Run or checkpoint whose weights the run begins with; empty: weights drawn from the seed"""
    validation: str = ""
    """Text source for validation; empty: that of the config, or a holdout of ``data``"""
    engine: str = ""
    steps: int = 0
    """Training steps; 0: the length of the config"""
    overrides: Sequence[str] = field(default_factory=tuple)
    out: Path | None = None
    """Run directory; None: runs/NAME"""
    prepared: Path = Path("prepared")
    """Directory of prepared datasets"""
    device: str = "auto"
    resume: bool = False
    """Resume the run if ``out`` already contains it"""


def common_settings(
    *,
    steps: int | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> tuple[str, ...]:
    """Return the settings of the common options as ``section.key=value``; an option that is None sets nothing.

    ``train`` and ``resume`` apply them before other settings. Raise UsageError for both steps and epochs.
    """
    if steps and epochs is not None:
        raise UsageError(f"--steps {steps} and --epochs {epochs:g} both set the length.", hint="Leave out one of them.")
    values = {
        "training.length.max_steps": steps or None,
        "training.length.epochs": epochs,
        "optimizer.lr": lr,
        "training.micro_batch_size": batch_size,
        "seed": seed,
    }
    return tuple(f"{key}={value!r}" for key, value in values.items() if value is not None)


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """Config of a request, the prepared dataset it names, if any, and the reasons for suggested settings."""

    run: RunConfig
    prepared: TokenizedDataset | None
    reasons: tuple[str, ...]
    unsuitable: Unsuitable = "keep"
    """What to do with sequences that drop much of the text"""
    vocab_size_given: bool = False
    """Whether the user sets the size of the vocabulary; else it grows to that of the dataset's tokenizer"""

    def fit(self, dataset: TokenizedDataset) -> tuple[RunConfig, Sequence[str]]:
        """Return the config with sequences that read the text of ``dataset``, and sentences about their share.

        Raise ConfigError where chosen sequences would drop most of the text.
        """
        run, sentences = fit_sequences(self.run, dataset, unsuitable=self.unsuitable)
        before, size = run.model.vocab_size, dataset.tokenizer.vocab_size
        if self.vocab_size_given or size <= before:
            return run, sentences
        change = f"model.vocab_size = {size:,}, as the tokenizer has (the config: {before:,})."
        return with_vocab_size(run, (), dataset), [*sentences, change]

    def estimate_fit(self) -> tuple[RunConfig, Sequence[str]]:
        """Return the same before the text is prepared, from its start."""
        return estimate_sequences(self.run, unsuitable=self.unsuitable)


def resolve_request(request: TrainRequest) -> ResolvedRequest:
    """Return the validated config of a request. Raise ConfigError, TextError or PreparedDataError."""
    require_text(request)
    prepared = open_dataset(Path(request.data), full=True) if request.data and is_dataset(Path(request.data)) else None
    require_text_for(request.what, request.data, request.more, prepared=prepared is not None)
    changes, given = _changes(request, prepared), sets_vocab_size(request.overrides)
    if is_config(request.what):
        run = load_config(request.what, request.overrides, with_reading(request.what, changes, request.reading))
        run = with_vocab_size(run, request.overrides, prepared)
        _require_settings_of(prepared, run)
        engines.backend(run.engine)  # raises before data is prepared if its package is missing
        return ResolvedRequest(_resolved(run, prepared), prepared, (), _when_unsuitable(request), given)
    reject_misspelled_preset(request.what)
    _reject_dataset(request.what)
    _reject_dataset_parent(request.what)
    texts = (request.what, *(() if request.data else request.more))
    source = with_read_options(parse_sources(texts), request.reading)
    gpu = engines.backend(request.engine or "torch").has_gpu()
    suggestion = suggest_config(source, name_of(request.what), size_of(source), gpu=gpu)
    changes = {"data.validation": source_settings(source, HOLDOUT)["data.validation"], **changes}
    run = _requested(suggestion.run.model_dump(mode="json"), request, changes, prepared)
    return ResolvedRequest(_resolved(run, prepared), prepared, suggestion.reasons_for(run), vocab_size_given=given)


def require_text(request: TrainRequest) -> None:
    """Raise ConfigError where a run or a directory of datasets is given in place of a text."""
    _reject_run(request)
    for source in (request.data, request.validation):
        _reject_dataset_parent(source)


def resolve_values(
    values: Mapping[str, Any], request: TrainRequest, prepared: TokenizedDataset | None, unsuitable: Unsuitable
) -> ResolvedRequest:
    """Return a config of unchecked ``values`` with the options and settings of a request, for its text.

    The size of its vocabulary does not change.
    """
    run = _requested(values, request, _changes(request, prepared), prepared)
    return ResolvedRequest(_resolved(run, prepared), prepared, (), unsuitable, vocab_size_given=True)


def _requested(
    values: Mapping[str, Any], request: TrainRequest, changes: Mapping[str, Any], prepared: TokenizedDataset | None
) -> RunConfig:
    run = validate_config(apply_overrides(with_sections(values, changes), request.overrides))
    run = with_vocab_size(run, request.overrides, prepared)
    _require_settings_of(prepared, run)
    return run


def _when_unsuitable(request: TrainRequest) -> Unsuitable:
    """Return what to do with sequences that drop much of the text: refuse those that the user has chosen."""
    keys = {override.partition("=")[0].strip() for override in request.overrides}
    if keys & {"data.sequences", "data.sequences.kind"}:
        return "refuse" if request.data or request.what not in preset_names() else "keep"
    if request.data or keys & {"data.source", "data.source.paths"}:
        return "pack"
    return "keep" if request.what in preset_names() else "refuse"


def engine_of(request: TrainRequest) -> str:
    """Return the engine of a request without reading its data. Raise ConfigError for an invalid config."""
    if named := value_of("engine", request.overrides) or request.engine:
        return str(named)
    return load_config(request.what).engine if is_config(request.what) else "torch"


def _require_settings_of(prepared: TokenizedDataset | None, run: RunConfig) -> None:
    """Raise ConfigError for a setting that cannot take effect, because a prepared dataset was made with another one."""
    if prepared is None:
        return
    given = run.model_dump(mode="json")
    given["data"] = text_settings(given["data"])
    made = {"tokenizer": prepared.manifest["tokenizer"]["section"], "data.duplicates": KeepDuplicates().model_dump()}
    made |= {f"data.{key}": value for key, value in text_settings(prepared.manifest["data"]).items() if key != "mode"}
    now = {"tokenizer": given["tokenizer"]} | {key: given["data"][key[len("data.") :]] for key in made if "." in key}
    for key in made:
        if made[key] != now[key]:
            raise ConfigError(
                f"{key} = {now[key]!r} has no effect: {prepared.path} was prepared with {made[key]!r}.",
                hint="Leave it out, or train on the text instead: --data TEXT.",
            )


def _resolved(run: RunConfig, prepared: TokenizedDataset | None) -> RunConfig:
    """Return the config with its data section as the data mode stores it. Raise ConfigError if the mode does."""
    data = run.data
    validation = data.validation
    if isinstance(validation, ValidationSource) and isinstance(data.source, FilesSource):
        separate = validation.source
        if isinstance(separate, FilesSource) and separate.paths == data.source.paths:
            # The validation files of the same directory are read with the same options.
            separate = data.source.model_copy(update={"split": separate.split, "limit": 0})
            data = data.model_copy(update={"validation": ValidationSource(source=separate)})
    return run.model_copy(update={"data": data_mode(data.mode.kind).resolve(data, prepared)})


def _changes(request: TrainRequest, prepared: TokenizedDataset | None) -> dict[str, Any]:
    """Return config key → value for the options of a request."""
    changes: dict[str, Any] = {}
    if prepared:
        data = {"mode": Pretokenized().model_dump(), **prepared.manifest["data"]}
        changes = {f"data.{key}": value for key, value in data.items()}
        changes["tokenizer"] = prepared.manifest["tokenizer"]["section"]
    elif request.data:
        source = with_read_options(parse_sources((request.data, *request.more)), request.reading)
        changes |= source_settings(source)
    if request.validation:
        reading = {key: value for key, value in request.reading.items() if key != "limit"}
        source = with_read_options(parse_sources((request.validation,)), reading).model_dump(mode="json")
        changes["data.validation"] = {"kind": "source", "source": source}
    if request.engine:
        changes["engine"] = request.engine
    if request.steps:
        changes["training.length"] = {"max_steps": request.steps}
    return changes


def _reject_run(request: TrainRequest) -> None:
    """Raise ConfigError for a run in place of a text or a preset."""
    path = Path(request.what)
    known = recognize(path) if request.what not in preset_names() else None
    if known is None or known.kind != RUN:
        return
    run, config = quote(str(path)), quote(str(path / "config.yaml"))
    text = request.data if request.data and recognize(Path(request.data)) is None else ""
    data = f" --data {quote(text)}" if text else ""
    out = quote(str(request.out or path.with_name(f"{path.name}-new")))
    raise ConfigError(
        f"{request.what} is a run, not a text, a preset or a config.",
        hint=f"To train its weights on another text: fabella train {quote(text) if text else 'TEXT'} --init-from {run} "
        f"--out {out}. To train it further on its own text: fabella resume {run}. To train new weights with its "
        f"settings: fabella train {config}{data} --out {out}",
    )


def _reject_dataset(what: str) -> None:
    """Raise ConfigError for a dataset in place of a text, because it needs a preset to train."""
    if is_dataset(Path(what)):
        raise ConfigError(
            f"{what} is a prepared dataset, not a text.",
            hint=f"Train a preset on it: fabella train PRESET --data {quote(what)}.",
        )


def _reject_dataset_parent(what: str) -> None:
    """Raise ConfigError for a directory of datasets in place of one of them."""
    if what and (datasets := datasets_in(Path(what))):
        names = ", ".join(quote(str(path)) for path in datasets[:5])
        more = f" and {len(datasets) - 5:,} more" if len(datasets) > 5 else ""
        raise ConfigError(f"{what} contains prepared datasets, not text.", hint=f"Use one of them: {names}{more}.")


def name_of(what: str) -> str:
    """Return a name for the run of a text: ``stories/my tales.txt.gz`` → ``my-tales``."""
    stem = Path(what).name.split(".")[0] if Path(what).name.strip(".") else "text"
    return re.sub(r"[^\w-]+", "-", stem.replace(":", "-")).strip("-").lower() or "text"


def size_of(source: Source) -> int:
    """Return the approximate bytes of text: file sizes, times three if compressed; a guess without files."""
    files = source_files(source)
    if not files:
        return 860 * getattr(source, "stories", 1_000_000)
    compressed = (".gz", ".xz", ".bz2", ".zst", ".tgz", ".zip", ".parquet")
    return sum(path.stat().st_size * (3 if path.suffix in compressed else 1) for path in files)


def prepare_data(
    run: RunConfig, root: Path, *, workers: int = 0, progress: Callable[[Preparing], None] | None = None
) -> TokenizedDataset:
    """Return the dataset of a run, prepared in a directory of ``root`` unless it exists there.

    The name of the directory has a hash of all that determines the token ids, including the contents of files but not
    their times.
    """
    inputs = dataset_fingerprint(run.data, run.tokenizer)
    directory = dataset_dir(run, root, inputs)
    return prepare(
        run.data,
        run.tokenizer,
        directory,
        workers=workers,
        progress=progress,
        # A stream is read only in part, so the amount of text per parameter is unknown.
        model_parameters=count(run.model.parameters()) if data_mode(run.data.mode.kind).complete else 0,
        inputs=inputs,
    )


def dataset_dir(run: RunConfig, root: Path, inputs: str) -> Path:
    """Return the directory of a run's dataset; ``inputs``: its ``dataset_fingerprint``."""
    return root / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', run.name)}-{inputs[:8]}"


def already_prepared(run: RunConfig, root: Path) -> TokenizedDataset | None:
    """Return the dataset of a run if ``root`` has it already. Raise TextError if the text is missing."""
    directory = dataset_dir(run, root, dataset_fingerprint(run.data, run.tokenizer))
    return open_dataset(directory) if is_dataset(directory) else None
