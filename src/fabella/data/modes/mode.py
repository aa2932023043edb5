"""Contract of a data mode: how a run gets its batches from its config and its dataset on disk.

``data_mode(kind)`` finds the implementation: the constant ``MODE`` in ``data/modes/KIND.py``.
"""

import importlib
from collections.abc import Iterator
from typing import Protocol

from fabella.config.data import DataConfig
from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset


class Batches(Iterator[Batch], Protocol):
    """Endless iterator over prefetched batches. Close it when done."""

    def close(self) -> None:
        """Stop the thread or process that prefetches. Safe to call twice."""
        ...


class DataMode(Protocol):
    """One kind of ``data.mode``."""

    complete: bool
    """Whether the dataset on disk contains all of the training text, so that its size says how long an epoch is."""

    def resolve(self, data: DataConfig, dataset: TokenizedDataset | None) -> DataConfig:
        """Return ``data`` as the run stores it. Raises ConfigError where ``dataset`` was prepared for another mode."""
        ...

    def count_sequences(self, data: DataConfig, dataset: TokenizedDataset) -> int | None:
        """Return the number of training sequences in an epoch; None if it is unknown."""
        ...

    def batches(
        self,
        data: DataConfig,
        dataset: TokenizedDataset,
        seed: int,
        sizes: Iterator[int],
        *,
        sequences: int = 0,
        stream: str = "",
    ) -> Batches:
        """Return batches of ``sizes`` sequences each, after the first ``sequences`` ones of ``seed``.

        ``stream`` is ``Batch.stream`` of the last batch used; empty for the beginning. Raises DataError where the text
        is not the one that ``dataset`` was prepared from, CheckpointError where ``stream`` is missing.
        """
        ...


def data_mode(kind: str) -> DataMode:
    """Return the data mode of ``data.mode.kind``."""
    mode: DataMode = importlib.import_module(f"fabella.data.modes.{kind}").MODE
    return mode
