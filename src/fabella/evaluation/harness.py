"""Standard tasks, by lm-evaluation-harness (needs ``pip install 'fabella[eval]'``): BLiMP, LAMBADA, one's own.

The harness asks in text, and Fabella answers; so the engine and the tokenizer of a run are of no matter to it.
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
from fabella.evaluation.predictions import Predict
from fabella.evaluation.scores import LOGITS_AT_ONCE, TOKENS_AT_ONCE
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.storage import write_json

FILE = "tasks.json"
FORMAT = 1
MOST_TOKENS = 256
"""Of an answer, where the task does not say; the harness's own usage."""
SEED = 1234
"""Chooses the examples shown before a question; the harness's own."""
ANSWERING = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p"}


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """One number of one task. ``error``: its standard error, not a number where the task has none."""

    task: str
    metric: str
    value: float
    error: float
    higher_is_better: bool | None
    questions: int
    shots: int
    """Solved examples before each question"""
    version: str


@dataclass(frozen=True, slots=True)
class Results:
    """What a run achieved. ``limit``: questions asked of each task at most, 0 where all were."""

    step: int
    harness: str
    limit: int
    measured: tuple[TaskMetric, ...]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Names of tasks, groups or YAML files; folders with more tasks; how many examples and questions."""

    tasks: tuple[str, ...]
    folders: tuple[Path, ...] = ()
    shots: int | None = None
    """None: as each task has it"""
    limit: int = 0
    checkpoint: str = "best"
    device: str = "auto"
    engine: str = ""
    """torch or jax; empty: the one that the run was trained with."""


def run_tasks(path: Path, asked: EvalConfig, report: Callable[[str], None] = lambda text: None) -> Results:
    """Put the tasks to the run in ``path``, and keep the result there as ``tasks.json``.

    Raises UsageError without the extra or for an unknown task, TextError where a task's data cannot be had,
    StorageError where there is no run or checkpoint.
    """
    harness = _harness()
    teller = load(path, checkpoint=asked.checkpoint, device=asked.device, engine=asked.engine)
    module = importlib.import_module(f"fabella.evaluation.predictions_{teller.engine}")
    report("Loading the tasks.")
    tasks = _loaded(harness, asked)
    for task in tasks["tasks"].values():
        if asked.shots is not None:
            task.set_config(key="num_fewshot", value=asked.shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    report(f"Asking the questions of {len(tasks['tasks'])} tasks.")
    evaluator = importlib.import_module("lm_eval.evaluator")
    found = evaluator.evaluate(
        adapter(teller, partial(module.predictions, teller.model)),
        tasks,
        limit=asked.limit or None,
        bootstrap_iters=1000,
        log_samples=False,
    )
    result = Results(teller.step, harness.__version__, asked.limit, tuple(_measured(found)), tuple(teller.warnings))
    write_json(path / FILE, result.as_json())
    return result


def _harness() -> Any:
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "Standard tasks need lm-evaluation-harness, which is not installed.", hint="pip install 'fabella[eval]'"
        ) from error
    return lm_eval


def adapter(teller: TextGenerator, predict: Predict) -> Any:
    """The teller as the harness knows models."""
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class Adapter(LM):  # pyright: ignore[reportUntypedBaseClass]
        """Every request's ``args`` is a tuple of the text before and what is asked of it."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return score(teller, predict, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [nats for nats, _ in score(teller, predict, [("", request.args[0]) for request in requests])]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return answer(teller, [request.args for request in requests])

    return Adapter()


def score(teller: TextGenerator, predict: Predict, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Log-likelihood of each (text before, continuation), and whether it is what a greedy choice would say."""
    at_once = max(teller.context_length, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // teller.config.vocab_size))
    found = loglikelihoods(predict, teller.tokenizer, asked, context=teller.context_length, tokens=at_once)
    return [(one.nats, one.greedy) for one in found]


def answer(teller: TextGenerator, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """What the model says after each text, by the settings beside it; to the same asked again, by another seed.

    Raises UsageError for a setting that Fabella does not have.
    """
    groups: dict[str, list[int]] = {}
    asked_before: dict[str, int] = {}
    for number, (before, settings) in enumerate(asked):
        if unknown := sorted(settings.keys() - ANSWERING):
            raise UsageError(
                f"A task asks for answers with {unknown[0]}, which Fabella does not have.",
                hint=f"It has: {', '.join(sorted(ANSWERING))}.",
            )
        written = json.dumps(settings, sort_keys=True)
        again = asked_before[before + written] = asked_before.get(before + written, -1) + 1
        groups.setdefault(f"{again} {written}", []).append(number)
    told = [""] * len(asked)
    for group, numbers in groups.items():
        settings = asked[numbers[0]][1]
        sampling = _sampling(settings, seed=int(group.partition(" ")[0]))
        stops = settings.get("until") or []
        telling = teller.stream_many(
            [asked[number][0] for number in numbers],
            sampling,
            max_tokens=int(settings.get("max_gen_toks", MOST_TOKENS)),
            stop=[stop for stop in ([stops] if isinstance(stops, str) else stops) if stop],
        )
        for number, story in zip(numbers, telling.completions(), strict=True):
            told[number] = story.completion
    return told


def _sampling(settings: Mapping[str, Any], *, seed: int) -> SamplingParams:
    """The most likely token, unless the task asks for chance."""
    warmth = float(settings.get("temperature", 1.0 if settings.get("do_sample") else 0.0))
    temperature = warmth if settings.get("do_sample", warmth > 0) else 0.0
    chosen: dict[str, Any] = {"top_p": 1.0} | {
        name: settings[name] for name in ("top_p", "top_k", "min_p") if name in settings
    }
    return SamplingParams(temperature=temperature, seed=seed, **chosen)


def _loaded(harness: Any, asked: EvalConfig) -> Any:
    """The tasks with their data."""
    missing = [folder for folder in asked.folders if not folder.is_dir()]
    if missing:
        raise UsageError(f"There is no folder {missing[0]}.", hint="Give --folder the folder of the tasks' YAML files.")
    manager = importlib.import_module("lm_eval.tasks").TaskManager(include_path=list(asked.folders) or None)
    known = set(manager.all_tasks)
    for name in asked.tasks:
        if name not in known and not Path(name).is_file():
            raise UsageError(f"There is no task '{name}'.", hint=did_you_mean(name, known))
    datasets: Any = importlib.import_module("datasets")
    try:
        return manager.load(list(asked.tasks))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise TextError(
            f"The data of {', '.join(asked.tasks)} cannot be had: {reason}.",
            hint="A standard task's data comes from the hub: check the network; a task of your own names its files.",
        ) from error


def _measured(found: Mapping[str, Any]) -> list[TaskMetric]:
    """The rows of the harness's result; its keys are ``metric,filter``."""
    rows: list[TaskMetric] = []
    for task, values in {**found["results"], **found.get("groups", {})}.items():
        for key, value in values.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{chosen}")
            count = found.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0))
            rows.append(
                TaskMetric(
                    task=task,
                    metric=metric if chosen == "none" else f"{metric} ({chosen})",
                    value=float(value),
                    error=float(error) if isinstance(error, int | float) else math.nan,
                    higher_is_better=found.get("higher_is_better", {}).get(task, {}).get(metric),
                    questions=int(count),
                    shots=int(found.get("n-shot", {}).get(task, 0)),
                    version=str(found.get("versions", {}).get(task, "")),
                )
            )
    return rows
