"""Training sequences that read the text: sequences that would drop most of it are refused or packed instead."""

from collections.abc import Sequence
from typing import Literal

from fabella.config.data import Packed
from fabella.data.coverage import coverage
from fabella.data.dataset import TokenizedDataset
from fabella.data.modes.mode import data_mode
from fabella.data.prepare.corpus import take_bytes
from fabella.errors import ConfigError
from fabella.run_config.run import RunConfig
from fabella.storage import format_share
from fabella.text.source import documents
from fabella.training.setup.suggest_config import bytes_per_token

Unsuitable = Literal["keep", "pack", "refuse"]
"""What to do with padded sequences that drop much of a text: keep those of a preset on its own text, pack those of a
preset on another text, refuse those that the user has chosen."""
MIN_SHARES = {"pack": 0.9, "refuse": 0.5}
"""Share of the tokens, 0 to 1, below which sequences are unsuitable."""
ESTIMATE_BYTES = 2_000_000
"""Bytes at the start of a text from which the share is estimated before it is prepared."""


def fit_sequences(
    run: RunConfig, dataset: TokenizedDataset, *, unsuitable: Unsuitable
) -> tuple[RunConfig, Sequence[str]]:
    """Return the config with sequences that read the text, and sentences about the share that is trained on.

    ``unsuitable``: what to do with sequences that drop much of the text. Raise ConfigError if it is ``refuse``.
    """
    covered = coverage(dataset.train, run.data.sequences, dataset.parts)
    of_start = "" if data_mode(run.data.mode.kind).complete else " of the start of the text"
    fitted = _fitted(run, covered.share, f"{covered}{of_start}", unsuitable=unsuitable)
    if fitted is run:
        return run, [f"an epoch of {_describe(run)} trains on {covered}{of_start}"]
    packed = coverage(dataset.train, fitted.data.sequences, dataset.parts)
    return fitted, [
        f"{_describe(run)} would train on only {covered}{of_start}; packed sequences are used instead",
        f"an epoch of {_describe(fitted)} trains on {packed}{of_start}",
    ]


def estimate_sequences(run: RunConfig, *, unsuitable: Unsuitable) -> tuple[RunConfig, Sequence[str]]:
    """Do the same before the text is prepared, from its first 2 MB and the usual bytes per token."""
    data = run.data
    if isinstance(data.sequences, Packed):
        return run, [f"an epoch of {_describe(run)} trains on all of the text"]
    texts = documents(data.source, decode_errors="replace", max_bad_lines=2**31)
    rate = bytes_per_token(run.tokenizer)
    lengths = [len(text.encode()) / rate + 1 for text in take_bytes(texts, ESTIMATE_BYTES)]
    share = sum(min(length, data.sequences.length) for length in lengths) / sum(lengths)
    estimate = f"about {format_share(share)} of the tokens"
    fitted = _fitted(run, share, estimate, unsuitable=unsuitable)
    if fitted is run:
        return run, [f"an epoch of {_describe(run)} trains on {estimate}"]
    return fitted, [f"{_describe(run)} would train on only {estimate}; packed sequences are used instead"]


def _fitted(run: RunConfig, share: float, trained: str, *, unsuitable: Unsuitable) -> RunConfig:
    """Return the config, with packed sequences where ``share`` is too small. Raise ConfigError for chosen ones."""
    sequences = run.data.sequences
    if isinstance(sequences, Packed) or unsuitable == "keep" or share >= MIN_SHARES[unsuitable]:
        return run
    length = sequences.length
    if unsuitable == "refuse":
        raise ConfigError(
            f"The {_describe(run)} train on only {trained}: each document is cut after {length:,} tokens.",
            hint=f"Train on all of it: 'data.sequences={{kind: packed, length: {length}, stride: {length}}}'.",
        )
    packed = Packed(length=length, stride=length)
    return run.model_copy(update={"data": run.data.model_copy(update={"sequences": packed})})


def _describe(run: RunConfig) -> str:
    return f"{run.data.sequences.kind} sequences of {run.data.sequences.length:,} tokens"
