"""Require that the config of a run fits the weights that it begins with: the same network and the same tokenizer."""

from shlex import quote
from typing import Any

from fabella.config.data import Bytes, Pretrained, TokenizerConfig
from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, TokenizerError
from fabella.models.registry import is_external
from fabella.run_config.run import RunConfig
from fabella.runs.branch import InitialWeights
from fabella.runs.family_files import family_digests
from fabella.storage.messages import escaped_path
from fabella.tokenizers import loading
from fabella.tokenizers.pretrained import added_tokens

FREE = {"dropout", "context_length", "init_std"}
"""Settings of a model that may differ from those of its weights, unless they change the shape of a parameter. All
others change what the weights mean, even where the shapes stay: heads, for example."""
MAX_NAMED = 3


def fit_model(run: RunConfig, initial: InitialWeights, prepared: TokenizedDataset | None) -> RunConfig:
    """Return the config with the model of the weights. Raise ConfigError if its own model is another one.

    Only the special tokens that the tokenizer of ``prepared`` has in addition make its vocabulary larger.
    """
    model, trained = run.model, initial.run.model
    if prepared is not None and model.vocab_size == prepared.tokenizer.vocab_size > trained.vocab_size:
        model = model.model_copy(update={"vocab_size": trained.vocab_size})
    if model.family != trained.family:
        if not _same_files(model.family, trained.family):
            raise ConfigError(
                f"The weights of {initial} are those of a model of family '{trained.family}', not '{model.family}'.",
                hint=_without_model(initial),
            )
        model = model.model_copy(update={"family": trained.family})
    ours, theirs = model.model_dump(mode="json"), trained.model_dump(mode="json")
    different = [f"model.{key} = {ours[key]}, not {theirs[key]}" for key in theirs if ours[key] != theirs[key]]
    forbidden = [text for text in different if text.split(" ")[0].removeprefix("model.") not in FREE]
    if forbidden:
        more = f" and {len(forbidden) - MAX_NAMED} more" if len(forbidden) > MAX_NAMED else ""
        raise ConfigError(
            f"The weights of {initial} do not fit: {'; '.join(forbidden[:MAX_NAMED])}{more}.",
            hint=_without_model(initial),
        )
    shapes = {name: parameter.shape for name, parameter in model.parameters().items()}
    for name, parameter in trained.parameters().items():
        if shapes.get(name) != parameter.shape:
            raise ConfigError(
                f"The weights of {initial} do not fit: {name} has the shape {list(parameter.shape)}, but "
                f"{list(shapes.get(name, ()))} with {'; '.join(different)}.",
                hint=_without_model(initial),
            )
    return run.model_copy(update={"model": model})  # its vocabulary grows with the tokenizer of the dataset


def fit_tokenizer(
    tokenizer: TokenizerConfig, initial: InitialWeights, prepared: TokenizedDataset | None
) -> TokenizerConfig:
    """Return the config of the weights' tokenizer. Raise TokenizerError if ``tokenizer`` describes another one.

    ``prepared``: the dataset to train on, if it exists already; its ids must be those of the same tokenizer, which may
    have special tokens in addition.
    """
    if prepared is not None:
        if added_tokens(prepared.tokenizer, initial.tokenizer) is None:
            raise TokenizerError(
                f"{escaped_path(prepared.path)} was prepared with another tokenizer than that of {initial}.",
                hint="Train on the text instead, or prepare it with that tokenizer: fabella prepare TEXT "
                f"--tokenizer {quote(escaped_path(initial.run_dir.path))} --out DIRECTORY",
            )
        return tokenizer
    if isinstance(tokenizer, Pretrained):
        same = loading.train(tokenizer, ()).fingerprint == initial.tokenizer.fingerprint
        if same:
            return tokenizer
    elif tokenizer.kind == initial.tokenizer.kind:
        same = getattr(tokenizer, "vocab_size", 256) == initial.tokenizer.vocab_size
    else:
        same = False
    if not same:
        raise TokenizerError(
            f"The tokenizer of {initial} is {initial.tokenizer.kind} with {initial.tokenizer.vocab_size:,} tokens, not "
            f"{_describe(tokenizer)}. Weights belong to their tokenizer.",
            hint="Leave out the tokenizer: that of the weights is used.",
        )
    return tokenizer_of(initial)


def tokenizer_of(initial: InitialWeights) -> TokenizerConfig:
    """Return the config of the weights' tokenizer: its files in the directory of their run."""
    if initial.tokenizer.kind == "bytes":
        return Bytes(special_tokens=tuple(initial.tokenizer.special_tokens))
    return Pretrained(source=str(initial.run_dir.path.resolve() / "tokenizer"))


def _same_files(family: str, other: str) -> bool:
    """Return whether two families outside the package have the same files."""
    return is_external(family) and is_external(other) and family_digests(family) == family_digests(other)


def _describe(tokenizer: TokenizerConfig) -> str:
    if isinstance(tokenizer, Pretrained):
        return tokenizer.source
    size: Any = getattr(tokenizer, "vocab_size", 256)
    return f"{tokenizer.kind} with {size:,} tokens"


def _without_model(initial: InitialWeights) -> str:
    run = quote(escaped_path(initial.run_dir.path))
    return f"Leave out these settings, or the preset or config, and name a text: fabella train TEXT --init-from {run}"
