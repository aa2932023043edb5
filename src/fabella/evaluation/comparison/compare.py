"""Paired comparison of finished runs: which is better on the same documents, how sure is that, what would decide.

    result = fabella.compare(["runs/a", "runs/b"])
    result.pairs[0].difference  # bits per byte of a minus those of b, with its 95 % interval

Losses are in bits per byte of the same documents, so runs with different tokenizers compare. Runs that differ only in
their seed are the seeds of one variant.
"""

import html
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.config.data import Source
from fabella.config.scoring import ScoringRule
from fabella.data.dataset import is_dataset, open_dataset
from fabella.errors import DataError, UsageError
from fabella.evaluation.comparison.compared_run import (
    ComparedRun,
    RunLosses,
    Texts,
    held_out_texts,
    open_run,
    score_run,
    validation_hash,
)
from fabella.evaluation.comparison.paired import RESAMPLES, SeedDifference, bootstrap, percentiles, seed_difference
from fabella.evaluation.comparison.variants import Variant, group_by_variant
from fabella.evaluation.confidence import ConfidenceInterval, mean
from fabella.evaluation.scoring.rules import RULES, require_length, require_rule
from fabella.models.parameters import count
from fabella.storage.messages import escaped_path
from fabella.text import source as sources
from fabella.text.decode_policy import DecodeErrors
from fabella.tracking.notebook import html_table


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison."""

    rule: str = "story"
    length: int = 0
    """Tokens of a sequence of line, and of the context of story; 0 for the shortest context of the trainings."""
    data: Source | Path | None = None
    """Text, or directory of a prepared dataset, whose validation split is scored; None for the held-out documents."""
    decode_errors: DecodeErrors = "strict"
    max_bad_lines: int = 0
    checkpoint: str = ""
    """best, latest or a step; empty for the last one of finished runs."""
    weights: str = "trained"
    """trained, or average for the average of the weights of each run."""
    device: str = "auto"
    engine: str = ""
    """torch or jax; empty for the engine of each run."""
    resamples: int = RESAMPLES
    seed: int = 1
    """Of the bootstrap."""


@dataclass(frozen=True, slots=True)
class RunScore:
    """Score of one run. The interval is over documents."""

    name: str
    path: str
    variant: str
    seed: int
    step: int
    parameters: int
    bits_per_byte: ConfidenceInterval


@dataclass(frozen=True, slots=True)
class RunPair:
    """``difference``: bits per byte of the first run minus those of the second, with its interval over documents."""

    first: str
    second: str
    difference: ConfidenceInterval


@dataclass(frozen=True, slots=True)
class VariantScore:
    """Mean over the seeds of a variant with its t interval; NaN bounds for one seed."""

    name: str
    runs: tuple[str, ...]
    bits_per_byte: ConfidenceInterval


@dataclass(frozen=True, slots=True)
class VariantPair:
    """Two variants, first minus second, in bits per byte."""

    first: str
    second: str
    over_documents: ConfidenceInterval
    """Difference of the means over all seeds, with its interval over documents."""
    over_seeds: SeedDifference | None
    """Differences at equal seeds; None without a common seed."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Result of a comparison. ``documents`` and ``bytes`` are those that every run was scored on."""

    rule: str
    text: str
    documents: int
    bytes: int
    resamples: int
    bootstrap_seed: int
    runs: tuple[RunScore, ...]
    pairs: tuple[RunPair, ...]
    variants: tuple[VariantScore, ...]
    variant_pairs: tuple[VariantPair, ...]
    warnings: tuple[str, ...]
    weights: str = "trained"
    """trained, or average for their average."""

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Return the scores and the differences, for a notebook."""
        scores = [(run.name, f"{run.parameters:,}", _with_interval(run.bits_per_byte)) for run in self.runs]
        pairs = [(pair.first, pair.second, _with_interval(pair.difference)) for pair in self.pairs]
        return (
            html_table(("run", "parameters", f"bits per byte ({self.rule})"), scores)
            + html_table(("first", "second", "difference in bits per byte"), pairs)
            + "".join(f"<p>{html.escape(warning)}</p>" for warning in self.warnings)
        )


def _with_interval(value: ConfidenceInterval) -> str:
    return f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"


def compare(
    runs: Sequence[str | Path],
    *,
    data: str | Path | None = None,
    rule: str = "story",
    length: int = 0,
    checkpoint: str | int = "",
    weights: str = "trained",
    device: str = "auto",
    engine: str = "",
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> RunComparison:
    """Compare two or more runs, or models that ``fabella import`` reads, on the same documents by the same rule.

    ``data``: a text, or the directory of a prepared dataset, whose validation split is scored; by default the held-out
    documents of the runs. ``rule``: ``story`` or ``line``, of ``length`` tokens, by default the shortest context of the
    trainings. ``checkpoint``: ``best``, ``latest`` or a step; by default the last one of finished runs. ``weights``:
    trained, or average for their average. ``engine``: torch or jax; empty for the engine of each run. ``seed``: of the
    bootstrap, with ``resamples`` resamples.

    Raises UsageError for fewer than two runs, a run that is not finished, or runs without a common text; the errors of
    loading and scoring a run.
    """
    config = CompareConfig(
        rule=rule,
        length=length,
        data=text_or_dataset(data) if data is not None else None,
        checkpoint=str(checkpoint),
        weights=weights,
        device=device,
        engine=engine,
        resamples=resamples,
        seed=seed,
    )
    return compare_runs(runs, config)


def text_or_dataset(data: str | Path, reading: Callable[[str], Source] = sources.parse_source) -> Source | Path:
    """Return the directory of a prepared dataset as it is, and a text as its source, read by ``reading``."""
    return Path(data) if is_dataset(Path(data)) else reading(str(data))


def compare_runs(
    runs: Sequence[str | Path], config: CompareConfig, report: Callable[[str], None] = lambda text: None
) -> RunComparison:
    """Do the same; ``report`` is called with status messages."""
    if config.resamples < 1:
        raise UsageError(f"{config.resamples} resamples are too few.", hint=f"Use --resamples {RESAMPLES}")
    if len(runs) < 2:
        raise UsageError(
            f"{len(runs)} run cannot be compared.", hint="Give two or more: fabella compare runs/first runs/second"
        )
    with tempfile.TemporaryDirectory(prefix="fabella-compare-") as temporary:
        opened = [open_run(Path(path), Path(temporary) / str(number), report) for number, path in enumerate(runs)]
        if not config.checkpoint:
            for run in opened:
                run.require_finished()
        rule = _rule(opened, config)
        texts, text = _texts(opened, config)
        scored: list[RunLosses] = []
        for run in opened:
            report(f"Scoring {escaped_path(run.path)} by {rule}.")
            own = texts if config.data is not None or run.imported else None
            which = {"checkpoint": config.checkpoint or "latest", "weights": config.weights}
            scored.append(score_run(run, rule, own, **which, device=config.device, engine=config.engine))
    return _Comparison(opened, scored, config).result(rule, text)


def _rule(runs: Sequence[ComparedRun], config: CompareConfig) -> ScoringRule:
    """Return the rule for all runs: the shortest context of their trainings, or the given length."""
    name = require_rule(config.rule)
    shortest = min(run.context for run in runs)
    return RULES[name](max(require_length(run.run.model, config.length, shortest) for run in runs))


def _texts(runs: Sequence[ComparedRun], config: CompareConfig) -> tuple[Texts | None, str]:
    """Return the text for imported models, or with ``config.data`` for all, and its name.

    Raises UsageError if the runs hold out different documents, or if no run has any.
    """
    data = config.data
    if isinstance(data, Path):
        dataset = open_dataset(data)
        return (lambda writer: held_out_texts(dataset.validation, dataset.tokenizer)), escaped_path(data)
    if data is not None:
        return (
            lambda writer: sources.documents(
                data, decode_errors=config.decode_errors, max_bad_lines=config.max_bad_lines, writer=writer
            )
        ), sources.describe(data)
    known = [run for run in runs if run.dataset is not None]
    if not known:
        raise UsageError("Imported models have no held-out text.", hint="Give a text to compare them on: --data TEXT")
    hashes = [validation_hash(run.dataset) for run in known if run.dataset is not None]
    for run, other in zip(known[1:], hashes[1:], strict=True):
        if other != hashes[0]:
            raise UsageError(
                f"{escaped_path(known[0].path)} and {escaped_path(run.path)} hold out different documents, so their "
                "scores are not comparable.",
                hint="Give one text that neither was trained on: --data TEXT",
            )
    dataset = known[0].dataset
    assert dataset is not None
    if len(known) < len(runs) and dataset.validation.loss_mask is not None:
        raise UsageError(
            f"{escaped_path(known[0].path)} learns answers only, which an imported model does not know.",
            hint="Give a text to compare them on: --data TEXT",
        )
    return (lambda writer: held_out_texts(dataset.validation, dataset.tokenizer)), "held-out text"


class _Comparison:
    """Losses of all runs on their common documents, and the resamples that all intervals share."""

    def __init__(self, runs: Sequence[ComparedRun], scored: Sequence[RunLosses], config: CompareConfig) -> None:
        sizes = [losses.losses.bytes for losses in scored]
        for run, size in zip(runs, sizes, strict=True):
            if len(size) != len(sizes[0]) or (size != sizes[0]).any():
                raise DataError(
                    f"{escaped_path(runs[0].path)} and {escaped_path(run.path)} score different parts of the text "
                    "(data.loss_on, or the chat template).",
                    hint="Give a text of plain documents: --data TEXT",
                )
        common = np.logical_and.reduce([losses.losses.whole for losses in scored])
        if not common.any():
            raise DataError(
                "No document is scored as a whole by every run.",
                hint="Use --rule story, or shorter sequences with --length.",
            )
        self.bytes = sizes[0][common].astype(np.float64)
        self.bits = np.array([losses.losses.nats[common] / np.log(2) for losses in scored])
        self.resampled = bootstrap(self.bits, self.bytes, resamples=config.resamples, seed=config.seed)
        self.runs, self.scored, self.config = runs, scored, config
        self.variants = group_by_variant([(run.path, run.run, run.imported) for run in runs])
        self.names = {number: name for variant in self.variants for number, name in variant.runs.items()}

    @property
    def values(self) -> NDArray[np.float64]:
        """Bits per byte of each run on all documents, [R]."""
        return self.bits.sum(axis=1) / self.bytes.sum()

    def interval(self, weights: Mapping[int, float]) -> ConfidenceInterval:
        """Return a weighted sum of the runs' bits per byte, e.g. a difference, with its interval over documents."""
        rows, factors = list(weights), np.array(list(weights.values()))
        return percentiles(float(factors @ self.values[rows]), factors @ self.resampled[rows], len(self.bytes))

    def result(self, rule: ScoringRule, text: str) -> RunComparison:
        warnings = [warning for losses in self.scored for warning in losses.warnings]
        skipped = len(self.scored[0].losses.bytes) - len(self.bytes)
        if skipped:
            warnings.append(f"{skipped:,} documents are left out: {rule} does not score all of their tokens.")
        return RunComparison(
            rule=rule.name,
            text=text,
            documents=len(self.bytes),
            bytes=int(self.bytes.sum()),
            resamples=self.config.resamples,
            bootstrap_seed=self.config.seed,
            runs=tuple(self._run_score(number) for number in range(len(self.runs))),
            pairs=tuple(self._pair(a, b) for a, b in combinations(range(len(self.runs)), 2)),
            variants=tuple(self._variant_score(variant) for variant in self.variants),
            variant_pairs=tuple(self._variant_pair(a, b) for a, b in combinations(self.variants, 2)),
            warnings=tuple(warnings),
            weights=self.config.weights,
        )

    def _run_score(self, number: int) -> RunScore:
        run = self.runs[number]
        return RunScore(
            name=self.names[number],
            path=str(run.path),
            variant=next(variant.name for variant in self.variants if number in variant.runs),
            seed=run.run.seed,
            step=self.scored[number].step,
            parameters=count(run.run.model.parameters()),
            bits_per_byte=self.interval({number: 1.0}),
        )

    def _pair(self, first: int, second: int) -> RunPair:
        difference = self.interval({first: 1.0, second: -1.0})
        return RunPair(self.names[first], self.names[second], difference)

    def _variant_score(self, variant: Variant) -> VariantScore:
        scores = [float(self.values[number]) for number in variant.runs]
        return VariantScore(variant.name, tuple(variant.runs.values()), mean(scores))

    def _variant_pair(self, first: Variant, second: Variant) -> VariantPair:
        weights = {number: 1 / len(first.runs) for number in first.runs}
        weights |= {number: -1 / len(second.runs) for number in second.runs}
        return VariantPair(
            first.name,
            second.name,
            self.interval(weights),
            seed_difference(self._by_seed(first), self._by_seed(second)),
        )

    def _by_seed(self, variant: Variant) -> dict[int, float]:
        return {self.runs[number].run.seed: float(self.values[number]) for number in variant.runs}
