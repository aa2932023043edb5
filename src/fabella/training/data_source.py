"""Batches of a run, from the position of its training progress."""

from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import Batches, data_mode
from fabella.run_config.run import RunConfig
from fabella.training.loop import Progress
from fabella.training.schedule import batch_sizes


def batches_from(run: RunConfig, dataset: TokenizedDataset, progress: Progress) -> Batches:
    """Return the batches of a run after those counted in ``progress``. Raise DataError if the text has changed."""
    sizes = batch_sizes(run.training, progress.step)
    mode = data_mode(run.data.mode.kind)
    return mode.batches(run.data, dataset, run.seed, sizes, sequences=progress.sequences, stream=progress.stream)
