"""Prepare the dataset of a resolved request, with its progress on the terminal, and fit the config to it."""

from pathlib import Path

from fabella.data.dataset import TokenizedDataset
from fabella.run_config.run import RunConfig
from fabella.tracking.console import print_status
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes
from fabella.training.setup.mixture_use import describe_mixture
from fabella.training.setup.request import ResolvedRequest, prepare_data


def prepare_request(resolved: ResolvedRequest, root: Path) -> TokenizedDataset:
    """Return the dataset of a request, which is prepared in a directory of ``root`` unless it exists."""
    if resolved.prepared is not None:
        return resolved.prepared
    with PrepareProgressLine() as line:
        dataset = prepare_data(resolved.run, root, progress=line)
    print_notes(dataset.manifest)
    return dataset


def fit_request(resolved: ResolvedRequest, dataset: TokenizedDataset) -> RunConfig:
    """Return the config of a request with sequences that suit the dataset, and print how much text they read."""
    run, sentences = resolved.fit(dataset)
    for sentence in (*sentences, *describe_mixture(run, dataset)):
        print_status(sentence)
    return run
