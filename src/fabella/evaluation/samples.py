"""Samples of every checkpoint of a run with the same prompts, which show how the model learned.

Samples from training are in ``samples.jsonl``. Checkpoints without one generate it now, with the same settings and
seed, so that the text is the one that training would have logged.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fabella.errors import CheckpointError, StorageError, UsageError
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.run_config.run import RunConfig
from fabella.runs.checkpoint import load_weights
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir, step_name


@dataclass(frozen=True, slots=True)
class SamplePrompts:
    """Prompts and sampling parameters that all checkpoints share."""

    prompts: tuple[str, ...]
    max_tokens: int
    """Maximum number of new tokens per sample."""
    sampling: SamplingParams

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UsageError("No prompt.", hint='Give at least one: fabella samples RUN "Once upon a time".')


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. ``loss``: validation loss at this step; None without a validation."""

    step: int
    prompt: str
    text: str
    loss: float | None
    generated: Literal["while training", "now"]


@dataclass(frozen=True, slots=True)
class SampleTable:
    """All samples, by prompt, then by step. ``warnings``: which checkpoints failed to load, and why."""

    config: SamplePrompts
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]

    def of(self, prompt: str) -> list[Sample]:
        """Return the samples of one prompt, by step."""
        return [sample for sample in self.samples if sample.prompt == prompt]

    def as_json(self) -> dict[str, Any]:
        """Return settings, samples and warnings."""
        return asdict(self)


def training_prompts(run: RunConfig) -> SamplePrompts:
    """Return the prompts and settings with which a run logs samples."""
    config = run.samples
    sampling = SamplingParams(temperature=config.temperature, top_p=config.top_p, seed=run.seed)
    return SamplePrompts(config.prompts, config.max_tokens, sampling)


def collect_samples(
    path: Path,
    config: SamplePrompts,
    *,
    weights: str = "trained",
    device: str = "auto",
    engine: str = "",
    report: Callable[[str], None] = lambda text: None,
) -> SampleTable:
    """Return samples of every checkpoint of the run in ``path``; those logged in training are not generated again.

    ``weights``: trained, or average for their average; checkpoints without one are skipped. ``engine``: torch or jax;
    empty for the engine of the run. ``report`` is called with status messages. Raises CheckpointError if there is
    neither a checkpoint nor a logged sample, and for a damaged line of the logs.
    """
    run_dir = RunDir.open(path)
    validated = (row for row in read_rows(path / "metrics.jsonl") if row.get("kind") == "validation")
    losses = {row["step"]: row.get("loss") for row in validated if "step" in row}
    as_in_training = config == training_prompts(run_dir.run) and engine in ("", run_dir.run.engine)
    if weights != "trained":
        load_weights(run_dir, "latest", weights)  # the error for a run without an average
        as_in_training, losses = False, {}
    samples = _logged(path, config, losses) if as_in_training else []
    known = {(sample.step, sample.prompt) for sample in samples}
    warnings: list[str] = []
    for step in run_dir.steps():
        prompts = [prompt for prompt in config.prompts if (step, prompt) not in known]
        if not prompts:
            continue
        report(f"Generating samples of {step_name(step)}.")
        try:
            generator = load(path, checkpoint=step, weights=weights, device=device, engine=engine)
            texts = _generate(generator, prompts, config)
        except StorageError as error:
            warnings.append(f"Skipped {step_name(step)}: {error.message}")
            continue
        samples += [
            Sample(step, prompt, text, losses.get(step), "now") for prompt, text in zip(prompts, texts, strict=True)
        ]
    if not samples:
        reason = f": {' '.join(warnings)}" if warnings else "."
        raise CheckpointError(
            f"{path} has no checkpoint to generate from{reason}", hint=f"Train it: fabella resume {path}"
        )
    order = {prompt: number for number, prompt in enumerate(config.prompts)}
    samples.sort(key=lambda sample: (order[sample.prompt], sample.step))
    return SampleTable(config, tuple(samples), tuple(warnings))


def _logged(path: Path, config: SamplePrompts, losses: dict[int, float | None]) -> list[Sample]:
    rows = (row for row in read_rows(path / "samples.jsonl") if row.get("kind") == "sample")
    return [
        Sample(row["step"], row["prompt"], row["text"], losses.get(row["step"]), "while training")
        for row in rows
        if row.get("prompt") in config.prompts and {"step", "text"} <= row.keys()
    ]


def _generate(generator: TextGenerator, prompts: Sequence[str], config: SamplePrompts) -> list[str]:
    """Generate one prompt at a time, as training does: in a batch, rounding could change a token."""
    return [
        generator.generate(prompt, config.sampling, max_tokens=config.max_tokens)[0].completion for prompt in prompts
    ]
