"""Import a model of another format as a run directory with one checkpoint at step 0."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from fabella.engine.engine import State
from fabella.errors import CheckpointError, ConfigError, FabellaError, TokenizerError, UsageError
from fabella.interop.formats.export_format import export_format, format_names, require_packages
from fabella.interop.imported_model import ImportedModel
from fabella.models.parameters import count
from fabella.run_config.files import validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import Checkpoint, save
from fabella.runs.environment import environment
from fabella.runs.run_dir import RunDir, require_empty
from fabella.runs.safetensors_io import is_pickle
from fabella.storage import escaped, storage_errors
from fabella.storage.messages import escaped_path
from fabella.text.chat.template import end_of_turn

IMPORTED = "imported_from"
"""Manifest entry of an imported run: format and architecture of its source."""
UNKNOWN_TEXT = "unknown-text-of-an-imported-model"
"""Path in ``data.source`` of an imported run: the text that it was trained on is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """An imported run."""

    path: Path
    source: str
    family: str
    parameters: int
    tokenizer: str
    context_length: int
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return {
            "path": str(self.path), "source": self.source, "family": self.family, "parameters": self.parameters,
            "tokenizer": self.tokenizer, "context_length": self.context_length, "warnings": list(self.warnings),
        }  # fmt: skip


def import_model(
    path: str | Path, *, out: str | Path = "", report: Callable[[str], None] = lambda text: None
) -> ImportResult:
    """Read a model and write it as the new run directory ``out``, by default ``runs/NAME``.

    ``path`` is a Hugging Face folder, a ``.gguf`` file or a ``.bin`` file of llama2.c. Code in a folder is never
    executed, and pickles are never read. Raises UsageError for an unknown format or architecture, CheckpointError for
    damaged files, TokenizerError for an unsupported tokenizer; then nothing is written.
    """
    source = Path(path)
    target = Path(out) if out else Path("runs") / _default_name(source)
    require_empty(target)
    module = _format_of(source)
    report(f"Reading {escaped_path(source)}.")
    try:
        model: ImportedModel = module.read(source)
    except (pydantic.ValidationError, ValueError) as error:  # sizes that no model has
        raise UsageError(
            f"The config of {escaped_path(source)} is not that of a model: {_first_line(error)}.",
            hint="Get the files again from the source of the model.",
        ) from None
    if model.tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            f"The tokenizer has {model.tokenizer.vocab_size:,} ids, the model only {model.config.vocab_size:,}.",
            hint="Get model and tokenizer from the same source.",
        )
    _drop_unusable_template(model)
    run = _run_config(target, model)
    report(f"Writing {escaped_path(target)}.")
    _write(target, run, model)
    return ImportResult(
        path=target,
        source=model.source,
        family=model.config.family,
        parameters=count(model.config.parameters()),
        tokenizer=f"{model.tokenizer.kind}, {model.tokenizer.vocab_size:,} ids",
        context_length=model.config.context_length,
        warnings=tuple(model.notes),
    )


def _drop_unusable_template(model: ImportedModel) -> None:
    """Leave out a chat template that cannot be applied, which every later command would refuse; note the reason."""
    template = model.tokenizer.chat_template
    if template is None:
        return
    try:
        end_of_turn(template)
    except FabellaError as error:
        model.tokenizer.chat_template = None
        model.notes.append(f"Its chat template is left out. {error.message}")


def _format_of(path: Path) -> Any:
    """Return the format that reads ``path``. Raises UsageError if none does, CheckpointError for a pickle."""
    shown = escaped_path(path)
    if not path.exists():
        raise UsageError(
            f"{shown} does not exist.",
            hint="Give a Hugging Face folder, a .gguf file, or a .bin file of llama2.c. To download a folder from the "
            f"hub: hf download OWNER/NAME --local-dir {escaped(path.name)}",
        )
    for name in format_names():
        module = export_format(name)
        if hasattr(module, "recognizes") and module.recognizes(path):
            require_packages(name, getattr(module, "IMPORT_PACKAGES", ()))
            return module
    if path.is_file():
        with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
            pickled = is_pickle(file.read(16))
        if pickled:
            raise CheckpointError(
                f"{shown}: refusing pickle, which can execute code when it is loaded.",
                hint="Ask its author for a safetensors file, or convert it where you trust it.",
            )
    raise UsageError(
        f"{shown} is not a model that Fabella can import.",
        hint="Give a Hugging Face folder with config.json and *.safetensors, a .gguf file, or a .bin file of llama2.c.",
    )


def _default_name(source: Path) -> str:
    return source.resolve().name.removesuffix(".gguf").removesuffix(".bin") or "imported"


def _run_config(target: Path, model: ImportedModel) -> RunConfig:
    length = model.config.context_length
    values = {
        "name": target.resolve().name,
        "about": {"description": f"Imported from a {model.source}."},
        "model": model.config.model_dump(mode="json"),
        "tokenizer": {"kind": "pretrained", "source": model.tokenizer_source},
        "data": {
            "source": {"kind": "files", "paths": [UNKNOWN_TEXT]},
            "sequences": {"kind": "packed", "length": length, "stride": length},
        },
        "optimizer": {"kind": "adamw", "lr": 1e-4},
        "training": {"length": {"max_steps": 1}, "micro_batch_size": 1},
    }
    try:
        return validate_config(values)
    except ConfigError as error:
        raise UsageError(f"Cannot import this model: {error.message}", hint=error.hint) from None


def _write(target: Path, run: RunConfig, model: ImportedModel) -> None:
    """Write the run; config.yaml comes last. After an error or Ctrl-C nothing is left."""
    manifest = {
        "environment": environment(),
        "tokenizer": model.tokenizer.fingerprint,
        IMPORTED: model.source,
    }

    def fill(created: RunDir) -> None:
        created.save_tokenizer(model.tokenizer)
        save(created, 0, Checkpoint(State(model.weights, {}, {"step": 0}), {"step": 0, "tokens": 0, "sequences": 0}))

    existed = target.exists()
    try:
        RunDir.create(target, run, manifest, fill=fill)
    except BaseException:
        if existed:
            for item in target.iterdir():
                shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)
        else:
            shutil.rmtree(target, ignore_errors=True)
        raise


def _first_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return escaped(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".lstrip(": "), 300)
    return escaped((str(error).splitlines() or [type(error).__name__])[0].rstrip("."), 300)
