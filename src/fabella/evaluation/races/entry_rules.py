"""What an entry of a race may be: checks before the clock matters, and the settings that the race decides."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fabella.config.data import DataConfig, Pretrained, Source, TokenizerConfig, ValidationSource
from fabella.data.dataset import is_dataset
from fabella.data.fingerprint import full_hashes
from fabella.engine import engine as engines
from fabella.errors import ConfigError, UsageError
from fabella.evaluation.races.race import Race, require_rule_of
from fabella.run_config.files import apply_overrides, load_config, validate_config
from fabella.run_config.run import RunConfig
from fabella.text.source import source_files
from fabella.training.setup.request import ResolvedRequest, TrainRequest, common_settings, require_text, resolve_values

DECIDED = ("training.length", "validation", "data.validation", "data.source")
"""Settings that an entry cannot change: the clock decides the length, and the held-out text is scored once."""
OPEN_END = 10**6
"""Length in steps with which ``training.compile=auto`` is decided: a race is long, and the same for every entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRequest:
    """Options of an entry."""

    data: str
    """Training text"""
    validation: str
    """Held-out text, scored once, at the end"""
    recipe: str = ""
    """Preset or YAML file; empty: the recipe of the race"""
    overrides: Sequence[str] = ()
    seed: int | None = None
    out: Path | None = None
    """Run directory; None: runs/RACE-SEED"""
    prepared: Path = Path("prepared")
    """Directory in which the text is prepared, in a new directory with the name of the run directory"""
    device: str = "auto"
    steps: int = 0
    """Steps to repeat, from an earlier receipt; 0: as many as the clock allows"""
    tuned_on: str = ""
    """Text that changed settings were chosen on"""


def resolve_entry(race: Race, entry: EntryRequest) -> tuple[ResolvedRequest, RunConfig]:
    """Return the resolved config of an entry and its recipe. Raises UsageError for what breaks a rule of the race."""
    _require_texts(race, entry)
    for override in entry.overrides:
        key = override.partition("=")[0].strip()
        if any(key == name or key.startswith(f"{name}.") for name in DECIDED):
            raise UsageError(
                f"'{override}' is decided by the race: the clock sets the length, and the held-out text is scored "
                "once, at the end.",
                hint="Leave it out.",
            )
    recipe = load_config(entry.recipe) if entry.recipe else race.recipe
    values = recipe.model_dump(mode="json")
    _require_own_tokenizer(validate_config(apply_overrides(values, entry.overrides)).tokenizer)
    request = TrainRequest(
        what=entry.recipe or race.name,
        data=entry.data,
        validation=entry.validation,
        overrides=(*race_settings(OPEN_END), *common_settings(seed=entry.seed), *entry.overrides),
    )
    require_text(request)
    resolved = resolve_values(values, request, None, "keep")
    require_rule_of(race, resolved.run)
    _require_other_text(resolved.run.data)
    return resolved, recipe


def race_settings(steps: int) -> tuple[str, ...]:
    """Return the settings of every entry: no look at the held-out text, one checkpoint at the end, no samples."""
    return (
        f"training.length={{max_steps: {steps}}}",
        "validation={every_steps: 0}",
        f"checkpoint={{every_steps: {steps}}}",
        f"samples={{every_steps: {steps}, prompts: []}}",
    )


def device_of(race: Race, entry: EntryRequest, run: RunConfig) -> str:
    """Return the device of an entry. Raises UsageError for one that is not that of the race."""
    kind = entry.device.partition(":")[0]
    if race.device == "cpu":
        if kind not in ("auto", "cpu"):
            raise UsageError(
                f"The race {race.name} runs on a CPU, not on --device {entry.device}.", hint="Leave it out."
            )
        return "cpu"
    if kind == "cpu" or (kind == "auto" and not engines.backend(run.engine).has_gpu()):
        found = "--device cpu" if kind == "cpu" else "this machine, which has none that PyTorch or JAX can use"
        raise UsageError(
            f"The race {race.name} runs on a GPU, not on {found}.", hint="Enter cpu-20min: fabella race cpu-20min"
        )
    return entry.device


def require_threads(race: Race, engine: str, threads: int) -> None:
    """Raise UsageError if the engine uses more threads than the race allows. JAX uses one per core of this process."""
    if race.threads and threads > race.threads:
        cores = ",".join(str(number) for number in range(race.threads))
        other = f", or OMP_NUM_THREADS={race.threads} where there is none" if engine == "torch" else ""
        raise UsageError(
            f"The race {race.name} allows {race.threads} threads; engine={engine} uses {threads} here.",
            hint=f"Put 'taskset -c {cores}' before the command{other}.",
        )


def text_id(source: Source) -> str:
    """Return a sha256 that identifies a text: of the contents of its files, or of a source without files."""
    files = source_files(source)
    parts = full_hashes(files) if files else [source.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def held_out_source(data: DataConfig) -> Source:
    """Return the source of the held-out text."""
    assert isinstance(data.validation, ValidationSource), "an entry has a held-out text"
    return data.validation.source


def _require_texts(race: Race, entry: EntryRequest) -> None:
    texts = {"--data": ("training text", entry.data), "--validation": ("held-out text", entry.validation)}
    if missing := {option: name for option, (name, value) in texts.items() if not value}:
        raise UsageError(
            f"The race {race.name} needs a {' and a '.join(missing.values())}.",
            hint=f"Add {' '.join(f'{option} TEXT' for option in missing)}.",
        )
    for option, (_, value) in texts.items():
        if is_dataset(Path(value)):
            raise ConfigError(
                f"{option} {value} is a prepared dataset; preparing the text is on the clock of a race.",
                hint=f"Give the text itself: {option} TEXT.",
            )


def _require_own_tokenizer(tokenizer: TokenizerConfig) -> None:
    if isinstance(tokenizer, Pretrained):
        raise UsageError(
            f"The tokenizer {tokenizer.source} was trained before the race, and its training is on the clock.",
            hint="Set tokenizer.kind=bpe, sentencepiece or bytes.",
        )


def _require_other_text(data: DataConfig) -> None:
    training, held_out = data.source, held_out_source(data)
    files, others = source_files(training), source_files(held_out)
    if training == held_out or set(full_hashes(files)) & set(full_hashes(others)):
        raise UsageError(
            "The held-out text is a part of the training text.",
            hint="Give a text that is not trained on: --validation HELD_OUT.",
        )
