"""A checkpoint to export: config, weights and tokenizer of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError
from fabella.models.model_config import ModelConfig
from fabella.runs import checkpoint as checkpoints
from fabella.runs.branch import model_sha256
from fabella.runs.checkpoint import AVERAGE, MODEL
from fabella.runs.run_dir import RunDir
from fabella.storyteller import run_or_included
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """A checkpoint of a run, read and verified."""

    run_dir: RunDir
    step: int
    weights: Mapping[str, NDArray[np.float32]]
    """By the names of the parameter table."""
    tokenizer: Tokenizer
    weights_kind: str = "trained"
    """``trained``, or ``average`` for the average of the weights."""
    warnings: list[str] = field(default_factory=list[str])

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return self.run_dir.run.model

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to read: the training sequences may be shorter than its maximum."""
        return min(self.config.context_length, self.run_dir.run.data.sequences.length)

    @property
    def sha256(self) -> str:
        """Recorded sha256 of the checkpoint's trained weights, or of their average."""
        return model_sha256(self.run_dir, self.step, AVERAGE if self.weights_kind == "average" else MODEL)


def open_run(run: Path) -> RunDir:
    """Open the run at a path, or the one that comes with the package. Raises StorageError."""
    return RunDir.open(run_or_included(run))


def open_source(run: Path, checkpoint: str | int, weights: str = "trained") -> ExportSource:
    """Read a checkpoint of a run: ``best``, ``latest`` or a step number; its ``trained`` weights or their ``average``.

    Raises StorageError if it is missing or damaged, TokenizerError if the tokenizer has ids that the model lacks.
    """
    run_dir = open_run(run)
    loaded = checkpoints.load_weights(run_dir, checkpoint, weights)
    tokenizer = loading.load(run_dir.path / "tokenizer")
    if tokenizer.vocab_size > run_dir.run.model.vocab_size:
        raise TokenizerError(
            f"The tokenizer has {tokenizer.vocab_size:,} ids, the model only {run_dir.run.model.vocab_size:,}.",
            hint="Restore the directory 'tokenizer' of the run.",
        )
    return ExportSource(
        run_dir=run_dir, step=loaded.step, weights=loaded.checkpoint.state.weights, weights_kind=weights,
        tokenizer=tokenizer, warnings=list(loaded.warnings),
    )  # fmt: skip
