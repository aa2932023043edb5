"""The same prompts told from checkpoint after checkpoint, so that learning can be read as it goes.

What a training told on its way lies in ``samples.jsonl``; checkpoints that it did not tell from are asked now, by the
same settings and seed, and tell what they would have told then.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fabella.errors import CheckpointError, StorageError, UsageError
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.run_config.run import RunConfig
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import RunDir, step_name


@dataclass(frozen=True, slots=True)
class SamplePrompts:
    """What every checkpoint is asked. The texts end by themselves, or after ``tokens``."""

    prompts: tuple[str, ...]
    tokens: int
    sampling: SamplingParams

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UsageError("There is no prompt.", hint='Give one: fabella samples RUN "Once upon a time".')


@dataclass(frozen=True, slots=True)
class Sample:
    """One text. ``loss``: that of the validation at this step, none where there was no validation."""

    step: int
    prompt: str
    text: str
    loss: float | None
    completion: Literal["while training", "now"]


@dataclass(frozen=True, slots=True)
class SampleTable:
    """All texts, by prompt and then by step. ``remarks``: which checkpoints could not be asked, and why."""

    ask: SamplePrompts
    samples: tuple[Sample, ...]
    remarks: tuple[str, ...]

    def of(self, prompt: str) -> list[Sample]:
        """What was told of one prompt, the first step first."""
        return [sample for sample in self.samples if sample.prompt == prompt]

    def as_json(self) -> dict[str, Any]:
        """Settings and samples, for programs."""
        return asdict(self)


def asked_in_training(run: RunConfig) -> SamplePrompts:
    """The prompts and settings of a run's own samples."""
    own = run.samples
    return SamplePrompts(
        own.prompts, own.max_tokens, SamplingParams(temperature=own.temperature, top_p=own.top_p, seed=run.seed)
    )


def collect_samples(
    path: Path,
    ask: SamplePrompts,
    *,
    device: str = "auto",
    engine: str = "",
    report: Callable[[str], None] = lambda text: None,
) -> SampleTable:
    """Ask every checkpoint of the run in ``path``; what the training itself has told of ``ask`` is not told anew.

    ``engine``: torch or jax; empty: the one that the run was trained with. ``report`` hears what is being done.
    Raises CheckpointError where there is nothing to tell from, or a line of the run's measurements is damaged.
    """
    folder = RunDir.open(path)
    validated = (row for row in read_rows(path / "metrics.jsonl") if row.get("kind") == "validation")
    losses = {row["step"]: row.get("loss") for row in validated if "step" in row}
    as_in_training = ask == asked_in_training(folder.run) and engine in ("", folder.run.engine)
    found = _recorded(path, ask, losses) if as_in_training else []
    known = {(sample.step, sample.prompt) for sample in found}
    remarks: list[str] = []
    for step in folder.steps():
        prompts = [prompt for prompt in ask.prompts if (step, prompt) not in known]
        if not prompts:
            continue
        report(f"Asking {step_name(step)}.")
        try:
            texts = _tell(load(path, checkpoint=step, device=device, engine=engine), prompts, ask)
        except StorageError as error:
            remarks.append(f"{step_name(step)} was passed over: {error.message}")
            continue
        found += [
            Sample(step, prompt, text, losses.get(step), "now") for prompt, text in zip(prompts, texts, strict=True)
        ]
    if not found:
        why = f": {' '.join(remarks)}" if remarks else "."
        raise CheckpointError(f"{path} has no checkpoint to tell from{why}", hint=f"Train it: fabella resume {path}")
    order = {prompt: number for number, prompt in enumerate(ask.prompts)}
    found.sort(key=lambda sample: (order[sample.prompt], sample.step))
    return SampleTable(ask, tuple(found), tuple(remarks))


def _recorded(path: Path, ask: SamplePrompts, losses: dict[int, float | None]) -> list[Sample]:
    rows = (row for row in read_rows(path / "samples.jsonl") if row.get("kind") == "sample")
    return [
        Sample(row["step"], row["prompt"], row["text"], losses.get(row["step"]), "while training")
        for row in rows
        if row.get("prompt") in ask.prompts and {"step", "text"} <= row.keys()
    ]


def _tell(teller: TextGenerator, prompts: Sequence[str], ask: SamplePrompts) -> list[str]:
    """One by one, as the training tells them: told side by side, rounding could choose another word."""
    return [teller.generate(prompt, ask.sampling, max_tokens=ask.tokens)[0].completion for prompt in prompts]
