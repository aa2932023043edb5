"""Resolve a request whose run begins with the weights of another run: ``fabella train NEW.txt --init-from RUN``.

The new run has the model, the tokenizer and the batch of the other one. Its text is new, its optimizer starts from
zero, and its length suits a model that has learned something already.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.config.data import DataConfig, FilesSource, Source
from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset, is_dataset, open_dataset
from fabella.data.prepare.corpus import take_bytes
from fabella.errors import ConfigError, FabellaError, UsageError
from fabella.run_config.files import value_of, with_sections
from fabella.run_config.run import RunConfig
from fabella.runs.branch import InitialWeights, load_initial_weights, origin_name, run_path
from fabella.runs.run_dataset import find_run_dataset
from fabella.runs.run_dir import CONFIG, INIT_FROM, RunDir
from fabella.storage.messages import escaped_path
from fabella.text.source import documents, parse_sources, with_read_options
from fabella.training.fine_tuning.initial_model import fit_model, fit_tokenizer, tokenizer_of
from fabella.training.setup.request import (
    ResolvedRequest,
    TrainRequest,
    engine_of,
    name_of,
    require_text,
    resolve_request,
    resolve_values,
    size_of,
)
from fabella.training.setup.request_settings import is_config, source_settings

LR_FACTOR = 1.0
"""Peak learning rate, as a share of that of the training from scratch. For a story model on a book a lower rate learned
less than training from scratch (docs/guide-fine-tuning.md); it also forgets less."""
SCHEDULE = (
    {"shape": "linear", "start": 0.0, "end": 1.0, "length": "10%"},
    {"shape": "cosine", "start": 1.0, "end": 0.1, "length": "90%"},
)
"""A fresh optimizer knows no second moments: the warm-up keeps its first updates small."""
EPOCHS, MIN_STEPS, MAX_STEPS = 4, 100, 6_000
HOLDOUT = 0.05
"""Share of the documents of the new text that is held out for validation."""
SAMPLE_BYTES = 200_000
"""Bytes at the start of the text from which its tokens are estimated."""


def resolve_training(request: TrainRequest) -> tuple[ResolvedRequest, InitialWeights | None]:
    """Return the config of a request, and the weights that its run begins with; None for those of its seed.

    Raise CheckpointError for a run or checkpoint that is missing or damaged, ConfigError or TokenizerError if model or
    tokenizer of the request are not those of the weights, UsageError for a request without a text, and the errors of
    ``resolve_request``.
    """
    if not request.what and not request.init_from:
        data = request.data
        hint = f"Name it first: fabella train {quote(data)}" if data else "Give a text, a preset or a .yaml config."
        raise UsageError("Nothing to train on was given.", hint=hint)
    if not request.init_from:
        return resolve_request(request), None
    request = _with_text(request)
    require_text(request)
    out = request.out or Path("runs") / name_of(request.what)
    if request.resume and (out / CONFIG).is_file():
        return _resolve_started(request, RunDir.open(out)), None
    initial = load_initial_weights(Path(request.init_from))
    if is_config(request.what):
        return _resolve_config(request, initial), initial
    return _resolve_text(request, initial), initial


def engine_of_training(request: TrainRequest) -> str:
    """Return the engine of a request without reading its text; by default that of the weights it begins with."""
    named = request.engine or value_of("engine", request.overrides)
    if named or not request.init_from or is_config(request.what):
        return engine_of(request)
    out = request.out or Path("runs") / name_of(_with_text(request).what)
    started = request.resume and (out / CONFIG).is_file()
    return RunDir.open(out if started else run_path(Path(request.init_from))).run.engine


def _with_text(request: TrainRequest) -> TrainRequest:
    """Return a request whose ``what`` is the new text, and whose ``data`` is a dataset given in its place."""
    what = request.what or request.data
    if not what:
        raise UsageError(
            "--init-from names the weights; the text to train them on is missing.",
            hint=f"Name it: fabella train TEXT --init-from {request.init_from}",
        )
    return replace(request, what=what, data=what if not request.data and is_dataset(Path(what)) else request.data)


def _resolve_config(request: TrainRequest, initial: InitialWeights) -> ResolvedRequest:
    """Return a preset or a YAML config, whose model and tokenizer must be those of the weights."""
    resolved = resolve_request(request)
    run = fit_model(resolved.run, initial, resolved.prepared)
    run = run.model_copy(update={"tokenizer": fit_tokenizer(run.tokenizer, initial, resolved.prepared)})
    lr = f"Learning rate {run.optimizer.lr:g}, that of {request.what}; fine-tuning usually needs a lower one (--lr)."
    reasons = (*resolved.reasons, _describe(initial), lr)
    return replace(resolved, run=run, reasons=reasons, vocab_size_given=False)


def _resolve_text(request: TrainRequest, initial: InitialWeights) -> ResolvedRequest:
    """Return a config for a text: the settings of the weights' run, with a length and a rate for fine-tuning."""
    prepared = open_dataset(Path(request.data), full=True) if is_dataset(Path(request.data)) else None
    source = None if prepared else _source_of(request)
    suggested, epochs = _suggest(initial, source, prepared, request.steps)
    values = suggested | {"name": name_of(request.what), "tokenizer": tokenizer_of(initial).model_dump(mode="json")}
    chosen = any(item.partition("=")[0].startswith("data.sequences") for item in request.overrides)
    request = _without_source(request, prepared)
    resolved = resolve_values(values, request, prepared, "refuse" if chosen else "pack")
    run = fit_model(resolved.run, initial, prepared)
    run = run.model_copy(update={"tokenizer": fit_tokenizer(run.tokenizer, initial, prepared)})
    reasons = (_describe(initial), *_reasons(run, suggested, epochs, initial))
    return replace(resolved, run=run, reasons=reasons, vocab_size_given=False)


def _resolve_started(request: TrainRequest, started: RunDir) -> ResolvedRequest:
    """Return the config with which a run that was started from weights is resumed; they are not needed again."""
    entry = started.manifest.get(INIT_FROM)
    path = Path(request.init_from)
    name = origin_name(path)
    if not isinstance(entry, dict) or entry.get("run") != name:
        began = f"those of {entry.get('run')}" if isinstance(entry, dict) else "those of its seed"
        raise ConfigError(
            f"{escaped_path(started.path)} began with {began}, not with the weights of {escaped_path(path)}.",
            hint="Choose another --out, or resume it without --init-from.",
        )
    if is_config(request.what):
        resolved = resolve_request(request)
        same = {"model": started.run.model, "tokenizer": started.run.tokenizer}
        return replace(resolved, run=resolved.run.model_copy(update=same), vocab_size_given=True)
    prepared = open_dataset(Path(request.data), full=True) if is_dataset(Path(request.data)) else None
    values = started.run.model_dump(mode="json")
    if prepared is None:
        values = with_sections(values, source_settings(_source_of(request), HOLDOUT))
    return resolve_values(values, _without_source(request, prepared), prepared, "keep")


def _source_of(request: TrainRequest) -> Source:
    """Return the new text."""
    return with_read_options(parse_sources((request.data or request.what, *request.more)), request.reading)


def _without_source(request: TrainRequest, prepared: TokenizedDataset | None) -> TrainRequest:
    """Return a request whose text is in the values of its config already."""
    return request if prepared else replace(request, data="")


def _suggest(
    initial: InitialWeights, source: Source | None, prepared: TokenizedDataset | None, steps: int
) -> tuple[dict[str, Any], float]:
    """Return unchecked values of a config for fine-tuning on ``source`` or on ``prepared``; ``steps`` if not 0.

    The second value is the epochs of the suggested length, 0 if it was given.
    """
    run = initial.run
    accumulation = run.training.gradient_accumulation[-1][1]
    batch_tokens = run.training.micro_batch_size * accumulation * run.data.sequences.length
    epochs = 0.0
    if not steps:
        tokens = prepared.train.tokens if prepared else _estimate_tokens(source, initial)
        steps = int(min(max(EPOCHS * tokens / batch_tokens, MIN_STEPS), MAX_STEPS))
        epochs = steps * batch_tokens / max(tokens, 1)
    every = max(10, math.ceil(steps / 10))
    values: dict[str, Any] = run.model_dump(mode="json")
    values["about"] = {"description": f"Fine-tuned from {initial}."}
    values["data"] = DataConfig(sequences=run.data.sequences).model_dump(mode="json")
    values["data"]["sequences"].pop("reshuffle", None)  # suits only some of the settings that a new text may have
    if source is not None:
        values = with_sections(values, source_settings(source, HOLDOUT))
    values["optimizer"] |= {"lr": float(f"{LR_FACTOR * run.optimizer.lr:.3g}"), "schedule": list(SCHEDULE)}
    values["optimizer"] |= {"reset_after": [], "average": {"kind": "none"}}  # its start suits a longer run
    values["training"] |= {"length": MaxSteps(max_steps=steps).model_dump(), "freeze": []}
    values["training"] |= {"gradient_accumulation": [[0, accumulation]]}
    values["validation"] |= {"every_steps": every, "every_epochs": 0.0, "also": _old_texts(initial)}
    values["checkpoint"] |= {"every_steps": every, "every_epochs": 0.0, "keep_every_steps": 0, "milestones": []}
    values["samples"] |= {"every_steps": 2 * every, "every_epochs": 0.0}
    return values, epochs


def _estimate_tokens(source: Source | None, initial: InitialWeights) -> float:
    """Return the approximate tokens of a text, from its size and the tokens of its beginning."""
    assert source is not None, "a text or a dataset is given"
    rate = 4.0
    if isinstance(source, FilesSource):
        texts = list(take_bytes(documents(source, decode_errors="replace", max_bad_lines=2**31), SAMPLE_BYTES))
        sample = "".join(texts)[:SAMPLE_BYTES]
        rate = max(len(sample.encode()), 1) / max(len(initial.tokenizer.encode(sample)), 1)
    return size_of(source) / rate


def _old_texts(initial: InitialWeights) -> list[str]:
    """Return the runs and datasets whose validation text shows what is forgotten: those whose data is found."""
    try:
        found = find_run_dataset(initial.run_dir) is not None
    except FabellaError:
        found = False
    earlier = [path for path in initial.run.validation.also if Path(path).exists()]
    return [*earlier, *([str(initial.run_dir.path.resolve())] if found else [])]


def _describe(initial: InitialWeights) -> str:
    return f"Weights, model and tokenizer of {initial}."


def _reasons(run: RunConfig, suggested: Mapping[str, Any], epochs: float, initial: InitialWeights) -> tuple[str, ...]:
    """Return a sentence for each suggested setting that the request has not changed."""
    reasons: list[str] = []
    if run.optimizer.lr == suggested["optimizer"]["lr"]:
        reasons.append(
            f"Learning rate {run.optimizer.lr:g}, that of {initial.run.name}; a lower one forgets less (--lr)."
        )
    length = run.training.length
    suggested_steps = suggested["training"]["length"]["max_steps"]
    if epochs and isinstance(length, MaxSteps) and length.max_steps == suggested_steps:
        limit = {MIN_STEPS: ", the fewest", MAX_STEPS: ", the most"}.get(suggested_steps, "")
        reasons.append(f"{suggested_steps:,} steps{limit}: about {epochs:,.2g} epochs (--steps, --epochs).")
    also = ", ".join(escaped_path(Path(path)) for path in run.validation.also)
    if also:
        reasons.append(f"Validation also on the text of {also}: a loss that rises there shows what is forgotten.")
    elif not suggested["validation"]["also"]:
        reasons.append(
            f"The dataset of {initial.name} was not found, so forgetting is not measured. Name a "
            "dataset or a run with it: validation.also=[DIRECTORY]."
        )
    return tuple(reasons)
