"""Pretokenized mode: batches from a dataset on disk, in the order of a keyed permutation."""

import math
from collections.abc import Iterator

from fabella.config.data import DataConfig, MixtureSource, Packed
from fabella.data.dataset import TokenizedDataset
from fabella.data.loader import PrefetchLoader, prefetch_loader
from fabella.data.mixture import draws_of, mixture_sampler, part_shares
from fabella.data.modes.mode import DataMode
from fabella.data.sampler import PermutationSampler, Sampler
from fabella.data.sequences import ReshuffledSequences, SequenceDataset, TrainingSequences, first_id
from fabella.errors import PreparedDataError
from fabella.text.mixture import flatten_mixture
from fabella.text.source import describe


class PretokenizedMode(DataMode):
    """The position in the data is one integer, the number of sequences used."""

    complete = True

    def resolve(self, data: DataConfig, dataset: TokenizedDataset | None) -> DataConfig:
        return data

    def count_sequences(self, data: DataConfig, dataset: TokenizedDataset) -> int | None:
        samples = _samples(data, dataset)
        if not isinstance(data.source, MixtureSource):
            return len(samples)
        draws = draws_of(part_shares(data.source), data.source.by, samples.parts)
        epochs = [size.sequences / draw for size, draw in zip(samples.parts, draws.tolist(), strict=True)]
        return math.ceil(min(epochs) if data.source.until == "first" else max(epochs))

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
        samples: TrainingSequences = _samples(data, dataset)
        epoch_offset = 0
        if isinstance(data.sequences, Packed) and data.sequences.reshuffle:
            first = first_id(data.sequences, dataset.tokenizer.eos_id, dataset.tokenizer.bos_id)
            samples = ReshuffledSequences(dataset.train, data.sequences, dataset.parts, seed, first_id=first)
            epoch_offset = len(samples)
        sampler: Sampler = PermutationSampler(len(samples), seed, epoch_offset)
        if isinstance(data.source, MixtureSource):
            sampler = mixture_sampler(data.source, samples, seed, epoch_offset)
        return prefetch_loader(samples, sampler, sequences, sizes)


def _samples(data: DataConfig, dataset: TokenizedDataset) -> SequenceDataset:
    if isinstance(data.source, MixtureSource) and len(dataset.parts) != len(flatten_mixture(data.source)):
        raise PreparedDataError(
            f"{dataset.path} does not have the parts of {describe(data.source)}.",
            hint="It was prepared by an earlier version, or without a mixture; prepare the mixture again.",
        )
    eos_id, bos_id = dataset.tokenizer.eos_id, dataset.tokenizer.bos_id
    return SequenceDataset(dataset.train, data.sequences, eos_id, dataset.parts, bos_id=bos_id)


MODE = PretokenizedMode()
