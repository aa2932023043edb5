"""Standard tasks of lm-evaluation-harness: BLiMP, LAMBADA, or custom ones. Needs ``pip install 'fabella[eval]'``.

The harness sends text and Fabella answers, so that tasks work with every engine and tokenizer.
"""

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fabella.errors import TextError, UsageError, did_you_mean
from fabella.evaluation.loglikelihood import loglikelihoods
from fabella.evaluation.scoring.predictions import Predict
from fabella.evaluation.scoring.scores import MAX_BATCH_TOKENS, MAX_LOGITS
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.storage import write_json

FILE = "tasks.json"
FORMAT = 1
DEFAULT_MAX_TOKENS = 256
"""Maximum number of generated tokens if a task sets none; the harness's own default."""
FEWSHOT_SEED = 1234
"""Seed for choosing few-shot examples; the harness's own default."""
GENERATION_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p"}


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """One metric of one task."""

    task: str
    metric: str
    value: float
    stderr: float
    """Standard error; NaN if the task has none."""
    higher_is_better: bool | None
    num_samples: int
    num_fewshot: int
    """Number of examples in the prompt."""
    version: str


@dataclass(frozen=True, slots=True)
class Results:
    """Metrics of a run. ``limit``: maximum number of samples per task; 0 for all."""

    step: int
    harness: str
    limit: int
    metrics: tuple[TaskMetric, ...]
    warnings: tuple[str, ...]
    weights: str = "trained"

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``tasks.json``."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessConfig:
    """Settings of a run of tasks."""

    tasks: tuple[str, ...]
    """Names of tasks or groups, or YAML files."""
    include_path: tuple[Path, ...] = ()
    """Directories with YAML files of additional tasks."""
    num_fewshot: int | None = None
    """Number of examples in the prompt; None for the setting of each task."""
    limit: int = 0
    """Maximum number of samples per task; 0 for all."""
    checkpoint: str = "best"
    weights: str = "trained"
    """trained, or average for their average."""
    device: str = "auto"
    engine: str = ""
    """torch or jax; empty for the engine of the run."""


def run_tasks(path: Path, config: HarnessConfig, report: Callable[[str], None] = lambda text: None) -> Results:
    """Run the tasks on the run in ``path`` and save the result there as ``tasks.json``.

    Raises UsageError without the extra or for an unknown task, TextError if a task's data cannot be loaded,
    StorageError without a run or checkpoint.
    """
    harness = _import_harness()
    generator = load(
        path, checkpoint=config.checkpoint, weights=config.weights, device=config.device, engine=config.engine
    )
    module = importlib.import_module(f"fabella.evaluation.scoring.predictions_{generator.engine}")
    report("Loading the tasks.")
    tasks = _load_tasks(config)
    for task in tasks["tasks"].values():
        if config.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=config.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    report(f"Running {len(tasks['tasks'])} tasks.")
    evaluator = importlib.import_module("lm_eval.evaluator")
    result = evaluator.evaluate(
        adapter(generator, partial(module.predictions, generator.model)),
        tasks,
        limit=config.limit or None,
        bootstrap_iters=1000,
        log_samples=False,
    )
    metrics, warnings = tuple(_metrics(result)), tuple(generator.warnings)
    results = Results(generator.step, harness.__version__, config.limit, metrics, warnings, generator.weights)
    write_json(path / FILE, results.as_json())
    return results


def _import_harness() -> Any:
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "Standard tasks need lm-evaluation-harness, which is not installed.", hint="pip install 'fabella[eval]'"
        ) from error
    return lm_eval


def adapter(generator: TextGenerator, predict: Predict) -> Any:
    """Return the generator as an ``LM`` of the harness."""
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class Adapter(LM):  # pyright: ignore[reportUntypedBaseClass]
        """``args`` of a request is a tuple: the context, then the continuation or the generation settings."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return score(generator, predict, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [nats for nats, _ in score(generator, predict, [("", request.args[0]) for request in requests])]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return generate_until(generator, [request.args for request in requests])

    return Adapter()


def score(generator: TextGenerator, predict: Predict, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Return the log-likelihood of each (context, continuation), and whether greedy decoding would generate it."""
    tokens = max(generator.context_length, min(MAX_BATCH_TOKENS, MAX_LOGITS // generator.config.vocab_size))
    scores = loglikelihoods(predict, generator.tokenizer, pairs, context=generator.context_length, tokens=tokens)
    return [(likelihood.nats, likelihood.greedy) for likelihood in scores]


def generate_until(generator: TextGenerator, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return the completion of each (context, settings) request; equal requests get different seeds.

    Raises UsageError for a setting that Fabella does not have.
    """
    groups: dict[str, list[int]] = {}
    repetitions: dict[str, int] = {}
    for number, (prompt, settings) in enumerate(requests):
        if unknown := sorted(settings.keys() - GENERATION_SETTINGS):
            raise UsageError(
                f"A task uses the unknown generation setting {unknown[0]}.",
                hint=f"Supported: {', '.join(sorted(GENERATION_SETTINGS))}.",
            )
        key = json.dumps(settings, sort_keys=True)
        repetition = repetitions[prompt + key] = repetitions.get(prompt + key, -1) + 1
        groups.setdefault(f"{repetition} {key}", []).append(number)
    completions = [""] * len(requests)
    for group, numbers in groups.items():
        settings = requests[numbers[0]][1]
        sampling = _sampling(settings, seed=int(group.partition(" ")[0]))
        stops = settings.get("until") or []
        stream = generator.stream_many(
            [requests[number][0] for number in numbers],
            sampling,
            max_tokens=int(settings.get("max_gen_toks", DEFAULT_MAX_TOKENS)),
            stop=[stop for stop in ([stops] if isinstance(stops, str) else stops) if stop],
        )
        for number, completion in zip(numbers, stream.completions(), strict=True):
            completions[number] = completion.completion
    return completions


def _sampling(settings: Mapping[str, Any], *, seed: int) -> SamplingParams:
    """Return the sampling parameters of a task; greedy unless it asks for sampling."""
    given = float(settings.get("temperature", 1.0 if settings.get("do_sample") else 0.0))
    temperature = given if settings.get("do_sample", given > 0) else 0.0
    filters: dict[str, Any] = {"top_p": 1.0} | {
        name: settings[name] for name in ("top_p", "top_k", "min_p") if name in settings
    }
    return SamplingParams(temperature=temperature, seed=seed, **filters)


def _load_tasks(config: HarnessConfig) -> Any:
    """Load the tasks with their data."""
    missing = [directory for directory in config.include_path if not directory.is_dir()]
    if missing:
        raise UsageError(
            f"Unknown directory {missing[0]}.", hint="Give --include-path the directory of the tasks' YAML files."
        )
    manager = importlib.import_module("lm_eval.tasks").TaskManager(include_path=list(config.include_path) or None)
    known = set(manager.all_tasks)
    for name in config.tasks:
        if name not in known and not Path(name).is_file():
            raise UsageError(f"Unknown task '{name}'.", hint=did_you_mean(name, known))
    datasets: Any = importlib.import_module("datasets")
    try:
        return manager.load(list(config.tasks))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise TextError(
            f"Cannot load the data of {', '.join(config.tasks)}: {reason}.",
            hint="Data of standard tasks comes from the hub: check the network. A custom task names its own files.",
        ) from error


def _metrics(result: Mapping[str, Any]) -> list[TaskMetric]:
    """Return the metrics in the harness's result, whose keys are ``metric,filter``."""
    rows: list[TaskMetric] = []
    for task, values in {**result["results"], **result.get("groups", {})}.items():
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            count = result.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0))
            rows.append(
                TaskMetric(
                    task=task,
                    metric=metric if filter_name == "none" else f"{metric} ({filter_name})",
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else math.nan,
                    higher_is_better=result.get("higher_is_better", {}).get(task, {}).get(metric),
                    num_samples=int(count),
                    num_fewshot=int(result.get("n-shot", {}).get(task, 0)),
                    version=str(result.get("versions", {}).get(task, "")),
                )
            )
    return rows
