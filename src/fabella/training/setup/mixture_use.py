"""Mixture of a run in its whole training: the share of the tokens of each part, and how often it is repeated."""

from collections.abc import Iterator

from fabella.config.data import MixtureSource
from fabella.config.training import MaxSteps
from fabella.data.dataset import TokenizedDataset
from fabella.data.mixture import weight_phases
from fabella.data.mixture_report import PartUse, describe_use, training_use
from fabella.data.sequences import SequenceDataset
from fabella.run_config.run import RunConfig
from fabella.text.mixture import flatten_mixture
from fabella.text.source import describe
from fabella.training.schedule import sequences_before
from fabella.training.setup.resolve_config import resolve_config


def part_uses(run: RunConfig, dataset: TokenizedDataset) -> list[PartUse]:
    """Return the use of each part of the mixture in the whole run; none without a mixture on disk."""
    if not isinstance(run.data.source, MixtureSource) or not dataset.parts:
        return []
    run = resolve_config(run, dataset)
    source, length = run.data.source, run.training.length
    assert isinstance(source, MixtureSource), "resolving keeps the kind of the source"
    assert isinstance(length, MaxSteps), "the length is resolved to steps"
    samples = SequenceDataset(
        dataset.train, run.data.sequences, dataset.tokenizer.eos_id, dataset.parts, bos_id=dataset.tokenizer.bos_id
    )
    total = sequences_before(run.training, length.max_steps)
    return training_use(source, [part.source for part in dataset.parts], samples.parts, total)


def describe_mixture(run: RunConfig, dataset: TokenizedDataset) -> Iterator[str]:
    """Yield sentences about the mixture of a run; of a stream, the sizes of the parts are unknown."""
    if uses := part_uses(run, dataset):
        yield from describe_use(uses)
    elif isinstance(run.data.source, MixtureSource):
        source = resolve_config(run, dataset).data.source
        assert isinstance(source, MixtureSource), "resolving keeps the kind of the source"
        names = [describe(leaf) for _, leaf in flatten_mixture(source)]
        for phase in weight_phases(source):
            shares = "; ".join(f"{100 * share:.3g} % {name}" for share, name in zip(phase.shares, names, strict=True))
            end = "" if phase.end is None else f" until sequence {phase.end:,}"
            yield f"{source.by} of the training by part of the mixture{end}: {shares}; a part that ends starts over"
