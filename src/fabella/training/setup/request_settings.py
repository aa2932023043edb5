"""Settings that follow from other parts of a request: how text is read, and the size of the vocabulary."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fabella.config.data import Pretrained, Source, TokenizerConfig
from fabella.data.dataset import TokenizedDataset
from fabella.data.prepare.corpus import default_validation
from fabella.errors import ConfigError, did_you_mean
from fabella.run_config.files import load_config, parse_yaml, preset_names, read_text, validate_config
from fabella.run_config.run import RunConfig
from fabella.storyteller import NAME, TRAIN
from fabella.text.source import CONFIG_SUFFIXES, is_bare_source, with_read_options
from fabella.tokenizers import loading

VOCAB_SIZE = "model.vocab_size"


def is_config(what: str) -> bool:
    """Return whether ``what`` is a preset or a .yaml config, and not a .yaml file that is only a text source."""
    if what in preset_names():
        return True
    if not what.endswith(CONFIG_SUFFIXES):
        return False
    path = Path(what)
    return not (path.is_file() and is_bare_source(parse_yaml(read_text(path), where=what)))


def require_text_for(what: str, data: str, more: Sequence[str], *, prepared: bool) -> None:
    """Raise ConfigError for further files where there is no text that they could belong to."""
    if more and (prepared or (is_config(what) and not data)):
        raise ConfigError(
            f"Cannot parse override '{more[0]}'.",
            hint="Write section.key=value, as in optimizer.lr=3e-4; texts are given with --data.",
        )


def reject_misspelled_preset(what: str) -> None:
    """Raise ConfigError for a name that is neither a path nor a preset."""
    if Path(what).exists() or what == "storybook":
        return
    if what == NAME:
        raise ConfigError(f"'{what}' is the included model, not a text or a preset.", hint=TRAIN)
    nearest = did_you_mean(what, preset_names())
    if nearest.startswith("Did you mean"):
        raise ConfigError(f"Unknown preset '{what}'.", hint=nearest)
    if re.fullmatch(r"[\w-]+", what):
        presets = ", ".join(preset_names())
        raise ConfigError(f"'{what}' is neither a file nor a preset.", hint=f"Presets: {presets}.")


def source_settings(source: Source, fraction: float = 0.01) -> dict[str, Any]:
    """Return a source and its validation split as settings: validation files, else ``fraction`` of the documents."""
    validation = default_validation(source, fraction)
    return {"data.source": source.model_dump(mode="json"), "data.validation": validation.model_dump(mode="json")}


def with_reading(config: str, changes: Mapping[str, Any], reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``changes`` to a config with its own sources read as ``reading`` says. Raises UsageError, ConfigError."""
    if not reading or "data.source" in changes:
        return dict(changes)
    data = load_config(config, (), changes).data
    result = {**changes, "data.source": with_read_options(data.source, reading).model_dump(mode="json")}
    if data.validation.kind == "source" and "data.validation" not in changes:
        settings = {key: value for key, value in reading.items() if key != "limit"}
        source = with_read_options(data.validation.source, settings)
        result["data.validation"] = {"kind": "source", "source": source.model_dump(mode="json")}
    return result


def with_vocab_size(run: RunConfig, overrides: Sequence[str], prepared: TokenizedDataset | None) -> RunConfig:
    """Return the config with an embedding for all token ids, unless the user has set its size.

    Raises TokenizerError if an existing tokenizer cannot be opened.
    """
    if sets_vocab_size(overrides):
        return run
    size = prepared.tokenizer.vocab_size if prepared else _size(run.tokenizer)
    if size <= run.model.vocab_size:
        return run
    values = run.model_dump(mode="json")
    values["model"]["vocab_size"] = size
    return validate_config(values)


def sets_vocab_size(overrides: Sequence[str]) -> bool:
    """Return whether the user sets the size of the vocabulary; ``--tokenizer`` alone gives both settings."""
    keys = [override.partition("=")[0].strip() for override in overrides]
    return "model" in keys or keys.count(VOCAB_SIZE) > keys.count("tokenizer")


def _size(tokenizer: TokenizerConfig) -> int:
    if isinstance(tokenizer, Pretrained):
        return loading.train(tokenizer, ()).vocab_size
    return getattr(tokenizer, "vocab_size", 0)
