"""Pretokenized mode: batches from a dataset on disk, in the order of a keyed permutation."""

from collections.abc import Iterator

from fabella.config.data import DataConfig
from fabella.data.dataset import TokenizedDataset
from fabella.data.loader import PrefetchLoader, prefetch_loader
from fabella.data.modes.mode import DataMode
from fabella.data.sampler import PermutationSampler
from fabella.data.sequences import SequenceDataset


class PretokenizedMode(DataMode):
    """The position in the data is one integer, the number of sequences used."""

    complete = True

    def resolve(self, data: DataConfig, dataset: TokenizedDataset | None) -> DataConfig:
        return data

    def count_sequences(self, data: DataConfig, dataset: TokenizedDataset) -> int | None:
        return len(SequenceDataset(dataset.train, data.sequences, dataset.tokenizer.eos_id))

    def batches(
        self,
        data: DataConfig,
        dataset: TokenizedDataset,
        seed: int,
        sizes: Iterator[int],
        *,
        sequences: int = 0,
        stream: str = "",
    ) -> PrefetchLoader:
        samples = SequenceDataset(dataset.train, data.sequences, dataset.tokenizer.eos_id)
        return prefetch_loader(samples, PermutationSampler(len(samples), seed), sequences, sizes)


MODE = PretokenizedMode()
