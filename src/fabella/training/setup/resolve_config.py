"""Resolve a config for its dataset, and check its length and the disk space for its checkpoints."""

import math
from pathlib import Path

from fabella.config.training import Epochs, MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.data.sequences import SequenceDataset
from fabella.errors import ConfigError, TokenizerError
from fabella.models.parameters import count
from fabella.optim.registry import state_spec
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import max_checkpoints, require_space
from fabella.runs.run_dir import RunDir
from fabella.training.schedule import steps_for_sequences


def resolve_config(run: RunConfig, dataset: TokenizedDataset) -> RunConfig:
    """Return the config with its length in steps. Raise TokenizerError if the vocabulary exceeds the embedding."""
    token_ids, rows = dataset.tokenizer.vocab_size, run.model.vocab_size
    if token_ids > rows:
        raise TokenizerError(
            f"The tokenizer has {token_ids:,} token ids, but the model's embedding has only {rows:,} rows "
            "(model.vocab_size).",
            hint=f"Set model.vocab_size={token_ids}, or prepare the data with a smaller tokenizer.",
        )
    length = run.training.length
    if isinstance(length, Epochs):
        sequences = len(SequenceDataset(dataset.train, run.data.sequences, dataset.tokenizer.eos_id))
        length = MaxSteps(max_steps=steps_for_sequences(run.training, math.ceil(sequences * length.epochs)))
    return run.model_copy(update={"training": run.training.model_copy(update={"length": length})})


def require_length(run_dir: RunDir, run: RunConfig) -> None:
    """Raise ConfigError if the changed config of a run ends before its latest checkpoint."""
    latest = max(run_dir.steps(), default=0)
    length = run.training.length
    if isinstance(length, MaxSteps) and length.max_steps < latest:
        raise ConfigError(
            f"training.length.max_steps = {length.max_steps:,}, but {run_dir.path} has already taken {latest:,} steps.",
            hint=f"Use more than {latest:,}, or omit it.",
        )


def require_disk_space(out: Path, run: RunConfig, *, existing: int) -> None:
    """Raise DiskFullError if the checkpoints that can exist at once, beyond ``existing`` ones, do not fit on disk."""
    require_space(out, checkpoint_bytes(run) * max_checkpoints(run, existing))


def checkpoint_bytes(run: RunConfig) -> int:
    """Return the size of a checkpoint in bytes: weights and moments in float32, and a margin for the rest."""
    table = run.model.parameters()
    moments = sum(math.prod(shape) for shape in state_spec(table, run.optimizer).values())
    return (count(table) + moments) * 4 + 100_000
