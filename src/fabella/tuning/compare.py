"""Comparison of model families: one text, tokenizer, optimizer and size; for equal tokens or equal time.

A comparison is resumed by the same call: finished runs in its directory are read, stopped ones are resumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError
from fabella.evaluation.comparison.paired import seed_difference
from fabella.evaluation.confidence import ConfidenceInterval, mean
from fabella.models.flops import flops_per_token
from fabella.models.parameters import count, count_non_embedding
from fabella.planning.estimate import estimate_memory
from fabella.report.run_history import read, settings
from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.training import run as session
from fabella.training.setup.resolve_config import resolve_config

NOT_COMPARED = ("about.", "checkpoint.", "samples.", "tracking.", "model.family")
"""Settings that do not affect the result of a run, and the path of a family, whose file is kept with the run."""


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One training run of a family."""

    seed: int
    run_dir: Path
    steps: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float
    rule: str
    """Name of the rule of both scores, the same for all runs"""


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """All runs of one family: size and cost of its model, and scores on the validation text over the seeds."""

    family: str
    parameters: int
    non_embedding_parameters: int
    flops_per_token: int
    """FLOPs of forward and backward pass per token"""
    memory_bytes: int
    """Estimated memory of training: weights, gradients, moments, activations and logits"""
    lr: float
    runs: tuple[SeedResult, ...]
    gap_to_best: ConfidenceInterval
    """Mean difference in bits per byte to the best family, over equal seeds; 0 for the best one"""
    seeds_to_decide: int | None
    """Seeds that a gap of this size would need to be shown; None for the best family, and for one seed"""

    @property
    def bits_per_byte(self) -> ConfidenceInterval:
        """Mean over the seeds, with its 95 % t interval."""
        return mean([run.bits_per_byte for run in self.runs])

    @property
    def loss(self) -> ConfidenceInterval:
        """Mean over the seeds in nats per token, with its 95 % t interval."""
        return mean([run.loss for run in self.runs])

    @property
    def seconds(self) -> float:
        """Mean training time of a run."""
        return fmean(run.seconds for run in self.runs)


def run_dirs(run: RunConfig, out: Path, seeds: int) -> list[Path]:
    """Return the run directories of a family in a comparison, one per seed."""
    return [out / run.name / f"seed-{run.seed + number}" for number in range(seeds)]


def compare(
    runs: Sequence[RunConfig], dataset: TokenizedDataset, out: Path, *, seeds: int = 1, device: str = "auto"
) -> list[FamilyResult]:
    """Train each run with ``seeds`` seeds in a directory of ``out`` named after its family; return the best first.

    Raise ConfigError, before anything is trained, if ``out`` has a run of other settings.
    """
    planned = [
        (run.model_copy(update={"seed": run.seed + number}), path)
        for run in runs
        for number, path in enumerate(run_dirs(run, out, seeds))
    ]
    for run, path in planned:
        _require_same_settings(resolve_config(run, dataset), path)
    results: dict[str, list[SeedResult]] = {}
    for run, path in planned:
        results.setdefault(run.name, []).append(_train(run, dataset, path, device))
    best = min(results, key=lambda name: fmean(result.bits_per_byte for result in results[name]))
    families = [_family_result(run, results, best, device) for run in runs]
    return sorted(families, key=lambda family: family.bits_per_byte.value)


def _train(run: RunConfig, dataset: TokenizedDataset, path: Path, device: str) -> SeedResult:
    """Train the run in ``path``, or resume it there; a finished run is only read."""
    if (path / CONFIG).is_file():
        result = session.resume(path, device=device, dataset=dataset.path)
    else:
        result = session.start_run(run, path, dataset, device=device)
    return SeedResult(
        seed=run.seed,
        run_dir=path,
        steps=result.progress.step,
        tokens=result.progress.tokens,
        seconds=float(read(path).last["seconds"]),
        loss=result.score.loss,
        bits_per_byte=result.score.bits_per_byte,
        rule=result.score.rule,
    )


def _require_same_settings(run: RunConfig, path: Path) -> None:
    """Raise ConfigError if ``path`` contains a run with other settings."""
    if not (path / CONFIG).is_file():
        return
    before, now = settings(RunDir.open(path).run), settings(run)
    keys = [key for key in now | before if not key.startswith(NOT_COMPARED) and now.get(key) != before.get(key)]
    if keys:
        raise ConfigError(
            f"{path} has a run with {keys[0]}={before.get(keys[0], 'nothing')}, not {now.get(keys[0], 'nothing')}.",
            hint="Use the same options to continue the comparison, or another --out.",
        )


def _family_result(run: RunConfig, results: Mapping[str, Sequence[SeedResult]], best: str, device: str) -> FamilyResult:
    table, own = run.model.parameters(), results[run.name]
    by_seed = [{result.seed: result.bits_per_byte for result in of} for of in (own, results[best])]
    gap = None if run.name == best else seed_difference(*by_seed)
    return FamilyResult(
        family=run.name,
        parameters=count(table),
        non_embedding_parameters=count_non_embedding(table),
        flops_per_token=flops_per_token(run.model, run.data.sequences.length),
        memory_bytes=sum(estimate_memory(run, device).on_device.values()),
        lr=run.optimizer.lr,
        runs=tuple(own),
        gap_to_best=gap.interval if gap else ConfidenceInterval(0.0),
        seeds_to_decide=gap.seeds_to_decide if gap else None,
    )
