"""Where the batches of a run come from: one way for each kind of ``data.mode``."""

from collections.abc import Callable, Iterator
from typing import Protocol

from fabella.data.batches import Batch
from fabella.data.dataset import TokenizedDataset
from fabella.data.fingerprint import digest_of_text
from fabella.data.loader import prefetch_loader
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import SequenceDataset
from fabella.data.streaming.loader import stream_feed
from fabella.errors import CheckpointError, PreparedDataError, TextError
from fabella.run_config.run import RunConfig
from fabella.text.source import describe
from fabella.training.loop import Progress
from fabella.training.schedule import batch_sizes


class Batches(Iterator[Batch], Protocol):
    """Batches made ahead of time, without end; to be closed."""

    def close(self) -> None:
        """End what makes them."""
        ...


def batches_from(run: RunConfig, prepared: TokenizedDataset, progress: Progress) -> Batches:
    """The run's batches from where ``progress`` stands. Raises DataError where the text is not what it was."""
    return WAYS[run.data.mode.kind](run, prepared, progress)


def _prepared(run: RunConfig, prepared: TokenizedDataset, progress: Progress) -> Batches:
    """From ids on disk: the whole state is the number of windows used."""
    windows = SequenceDataset(prepared.train, run.data.sequences, prepared.tokenizer.eos_id)
    sizes = batch_sizes(run.training, progress.step)
    return prefetch_loader(windows, PermutationSampler(len(windows), run.seed), progress.sequences, sizes)


def _streamed(run: RunConfig, prepared: TokenizedDataset, progress: Progress) -> Batches:
    """From the text itself; ``prepared`` is its head, with the tokenizer and what is held out."""
    if "text" not in prepared.manifest:
        raise PreparedDataError(
            f"{prepared.folder} holds a whole text, not the head of a stream.",
            hint="Leave out data.mode.kind=streaming, or give --data the text itself.",
        )
    if prepared.manifest["text"] != digest_of_text(run.data):
        raise TextError(
            f"The text of {describe(run.data.source)} is not what this run began with.",
            hint="Bring the original text back, or begin a new run.",
        )
    if progress.sequences and not progress.stream:
        raise CheckpointError(f"The checkpoint of step {progress.step} does not say where its stream stands.")
    sizes = batch_sizes(run.training, progress.step)
    return stream_feed(run.data, prepared.folder / "tokenizer", run.seed, progress.stream, sizes)


WAYS: dict[str, Callable[[RunConfig, TokenizedDataset, Progress], Batches]] = {
    "pretokenized": _prepared,
    "streaming": _streamed,
}
