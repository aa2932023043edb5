"""Streaming mode: batches from the text itself, tokenized and shuffled while training.

The dataset on disk is the head of the text: it provides the tokenizer and the validation split.
"""

from collections.abc import Iterator

from fabella.config.data import DataConfig, ValidationSource
from fabella.data.dataset import TokenizedDataset
from fabella.data.fingerprint import text_fingerprint
from fabella.data.modes.mode import DataMode
from fabella.data.streaming.loader import StreamingLoader, streaming_loader
from fabella.errors import CheckpointError, ConfigError, PreparedDataError, TextError
from fabella.text.source import describe, resolve_paths


class StreamingMode(DataMode):
    """The position in the data is the JSON state in ``Batch.stream``."""

    complete = False

    def resolve(self, data: DataConfig, dataset: TokenizedDataset | None) -> DataConfig:
        if dataset and "mode" not in dataset.manifest["data"]:
            raise ConfigError(
                f"Cannot stream {dataset.path}: it is a pretokenized dataset (data.mode.kind = streaming).",
                hint="Leave out data.mode.kind=streaming, or pass the text itself: --data TEXT.",
            )
        validation = data.validation
        if isinstance(validation, ValidationSource):
            validation = validation.model_copy(update={"source": resolve_paths(validation.source)})
        return data.model_copy(update={"source": resolve_paths(data.source), "validation": validation})

    def count_sequences(self, data: DataConfig, dataset: TokenizedDataset) -> int | None:
        return None

    def batches(
        self,
        data: DataConfig,
        dataset: TokenizedDataset,
        seed: int,
        sizes: Iterator[int],
        *,
        sequences: int = 0,
        stream: str = "",
    ) -> StreamingLoader:
        if "mode" not in dataset.manifest["data"]:
            raise PreparedDataError(
                f"Cannot stream {dataset.path}: it is a pretokenized dataset, not the head of a stream.",
                hint="Leave out data.mode.kind=streaming, or pass the text itself: --data TEXT.",
            )
        if dataset.manifest["text"] != text_fingerprint(data):
            raise TextError(
                f"The text of {describe(data.source)} has changed since this run started.",
                hint="Restore the original text, or start a new run.",
            )
        if sequences and not stream:
            raise CheckpointError(f"The checkpoint has no stream state, but {sequences:,} sequences were used.")
        return streaming_loader(data, dataset.path / "tokenizer", seed, stream, sizes)


MODE = StreamingMode()
