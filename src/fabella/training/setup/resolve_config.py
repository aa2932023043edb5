"""Resolve a config for its dataset, and check its length and the disk space for its checkpoints."""

import math
from pathlib import Path

from fabella.config.optimizer import MeanAverage, NoAverage, OptimizerConfig
from fabella.config.tracking import DOUBLING, parse_milestone
from fabella.config.training import Epochs, MaxSteps, MaxTokens
from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import data_mode
from fabella.errors import ConfigError, TokenizerError
from fabella.models.parameters import count
from fabella.optim.registry import state_spec
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import max_checkpoints, require_space
from fabella.runs.run_dataset import require_same_data
from fabella.runs.run_dir import RunDir
from fabella.tracking.factory import require_packages
from fabella.training.schedule import steps_for_sequences
from fabella.training.setup.mixture_schedule import is_mixture_resolved, resolve_mixture

WORD_SAMPLE_TOKENS = 1_000_000
"""Tokens in which words are counted: enough for a text of one kind."""


def resolve_config(run: RunConfig, dataset: TokenizedDataset) -> RunConfig:
    """Return the config with its length, milestones and start of an average in steps, and mixture phases in sequences.

    Raise TokenizerError if the vocabulary exceeds the embedding.
    """
    token_ids, rows = dataset.tokenizer.vocab_size, run.model.vocab_size
    if token_ids > rows:
        raise TokenizerError(
            f"The tokenizer has {token_ids:,} token ids, but the model's embedding has only {rows:,} rows "
            "(model.vocab_size).",
            hint=f"Set model.vocab_size={token_ids}, or prepare the data with a smaller tokenizer.",
        )
    steps_of_run = _length(run, dataset)
    training = run.training.model_copy(update={"length": MaxSteps(max_steps=steps_of_run)})
    milestones = {_milestone(run, dataset, milestone) for milestone in run.checkpoint.milestones}
    steps = sorted(step for step in milestones if isinstance(step, int))
    checkpoint = run.checkpoint.model_copy(
        update={"milestones": (*steps, *([DOUBLING] if DOUBLING in milestones else []))}
    )
    optimizer = _with_average_start(run.optimizer, steps_of_run)
    return resolve_mixture(
        run.model_copy(update={"training": training, "checkpoint": checkpoint, "optimizer": optimizer})
    )


def is_resolved(run: RunConfig) -> bool:
    """Return whether ``resolve_config`` would return the same config."""
    words = [milestone for milestone in run.checkpoint.milestones if isinstance(milestone, str)]
    average = run.optimizer.average
    in_steps = isinstance(run.training.length, MaxSteps) and not (
        isinstance(average, MeanAverage) and isinstance(average.start, str)
    )
    return in_steps and set(words) <= {DOUBLING} and is_mixture_resolved(run)


def _with_average_start(optimizer: OptimizerConfig, steps: int) -> OptimizerConfig:
    """Return the config with the start of a mean of the weights in steps, for a run of ``steps`` steps.

    Raise ConfigError if it begins after the end of the run.
    """
    average = optimizer.average
    if not isinstance(average, MeanAverage):
        return optimizer
    start = average.start_step(steps)
    if start >= steps:
        raise ConfigError(
            f"optimizer.average.start = {average.start}, but the run has only {steps:,} steps, so there are no weights "
            "to average.",
            hint="Set optimizer.average.start=80%.",
        )
    return optimizer.model_copy(update={"average": MeanAverage(start=start)})


def _length(run: RunConfig, dataset: TokenizedDataset) -> int:
    """Return the length of the run in steps."""
    match run.training.length:
        case MaxSteps(max_steps=steps):
            return steps
        case Epochs(epochs=epochs):
            return _steps_for_epochs(run, dataset, epochs)
        case MaxTokens(max_tokens=tokens):
            return steps_for_sequences(run.training, math.ceil(tokens / run.data.sequences.length))


def _milestone(run: RunConfig, dataset: TokenizedDataset, milestone: int | str) -> int | str:
    """Return a milestone in steps, or DOUBLING."""
    if isinstance(milestone, int) or milestone == DOUBLING:
        return milestone
    number, unit = parse_milestone(milestone)
    if unit == "epochs":
        return _steps_for_epochs(run, dataset, number)
    tokens = number * tokens_per_word(dataset) if unit == "words" else number
    return steps_for_sequences(run.training, math.ceil(tokens / run.data.sequences.length))


def _steps_for_epochs(run: RunConfig, dataset: TokenizedDataset, epochs: float) -> int:
    sequences = data_mode(run.data.mode.kind).count_sequences(run.data, dataset)
    assert sequences, "the config refuses epochs of a stream"
    return steps_for_sequences(run.training, math.ceil(sequences * epochs))


def tokens_per_word(dataset: TokenizedDataset) -> float:
    """Return the tokens per word, separated by whitespace, in the first million tokens of the validation split."""
    ids = dataset.validation.read(0, min(dataset.validation.tokens, WORD_SAMPLE_TOKENS))
    return len(ids) / max(len(dataset.tokenizer.decode(ids.tolist()).split()), 1)


def resolve_for_resume(run_dir: RunDir, requested: RunConfig, dataset: TokenizedDataset) -> RunConfig:
    """Return the config to resume a run with. Raise an error if it does not suit the run or this machine."""
    data = data_mode(requested.data.mode.kind).resolve(requested.data, dataset)
    requested = resolve_config(requested.model_copy(update={"data": data}), dataset)
    require_length(run_dir, requested)
    require_packages(requested.tracking)
    require_same_data(run_dir, requested, dataset)
    return requested


def require_length(run_dir: RunDir, run: RunConfig) -> None:
    """Raise ConfigError if the changed config of a run ends before its latest checkpoint."""
    latest = max(run_dir.steps(), default=0)
    length = run.training.length
    if isinstance(length, MaxSteps) and length.max_steps < latest:
        raise ConfigError(
            f"training.length.max_steps = {length.max_steps:,}, but {run_dir.path} has already taken {latest:,} steps.",
            hint=f"Use more than {latest:,}, or omit it.",
        )


def require_startable(out: Path, run: RunConfig) -> None:
    """Raise ConfigError if a package of a tracker is missing, DiskFullError if the checkpoints do not fit on disk."""
    require_packages(run.tracking)
    require_disk_space(out, run, existing=0)


def require_disk_space(out: Path, run: RunConfig, *, existing: int) -> None:
    """Raise DiskFullError if the checkpoints that can exist at once, beyond ``existing`` ones, do not fit on disk."""
    require_space(out, checkpoint_bytes(run) * max_checkpoints(run, existing))


def checkpoint_bytes(run: RunConfig) -> int:
    """Return the size of a checkpoint in bytes: weights, moments and average in float32, and a margin for the rest."""
    table = run.model.parameters()
    moments = sum(math.prod(shape) for shape in state_spec(run.trainable_parameters, run.optimizer).values())
    return (count(table) + moments) * 4 + average_bytes(run) + 100_000


def average_bytes(run: RunConfig) -> int:
    """Return the size in bytes of the average of the weights; 0 without one."""
    return 0 if isinstance(run.optimizer.average, NoAverage) else 4 * count(run.trainable_parameters)
