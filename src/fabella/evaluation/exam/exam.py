"""Exam of a run: accuracy on pairs of texts with known truth, and copies of the training text.

The result is saved as ``exam.json`` in the run directory. It has the answer to every question, so that two runs are
compared question by question.
"""

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fabella.data.dataset import TokenizedDataset
from fabella.errors import CheckpointError, UsageError
from fabella.evaluation import memorization, text_metrics
from fabella.evaluation.comparison.compared_run import held_out_texts
from fabella.evaluation.confidence import ConfidenceInterval, mean, proportion
from fabella.evaluation.exam.blimp import blimp_items
from fabella.evaluation.exam.story_items import SEED, ExamItem, entities, last_words, word_use
from fabella.evaluation.loglikelihood import loglikelihoods
from fabella.evaluation.scoring.predictions import Predict
from fabella.evaluation.word_splitting import text_of
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.runs.run_dataset import find_run_dataset
from fabella.runs.run_dir import RunDir
from fabella.storage import escaped, write_json

FILE = "exam.json"
FORMAT = 1
QUESTIONS = {"last word": (last_words, 100), "entities": (entities, 200), "word use": (word_use, 200)}
"""Task → its questions and their number."""
COPIES, COPY_TOKENS, PROMPT_WORDS = 16, 64, 6
"""Samples that are searched for copies, their tokens, and words of their prompts."""
MAX_SEARCHED_BYTES = 50_000_000
"""Training text that is searched for copies: ten seconds. ``fabella evaluate`` without a suite searches all."""
MAX_BATCH_LOGITS = 2**24


@dataclass(frozen=True, slots=True)
class ExamTask:
    """Result of one task. ``correct``: 1 or 0 for each question, in their order."""

    name: str
    questions: int
    chance: float
    accuracy: ConfidenceInterval
    """With Wilson's 95 % interval."""
    separable: float
    """Smallest difference in accuracy of two runs that so many questions show: 4 √(p (1 - p) / n)."""
    correct: str


@dataclass(frozen=True, slots=True)
class Copies:
    """Longest copies of the training text in generated and in real text after the same prompts, in words."""

    samples: int
    generated: ConfidenceInterval
    real: ConfidenceInterval
    longest: str


@dataclass(frozen=True, slots=True)
class Exam:
    """Result of an exam."""

    step: int
    suite: str
    seed: int
    tasks: tuple[ExamTask, ...]
    copies: Copies | None
    seconds: float
    warnings: tuple[str, ...]
    weights: str = "trained"

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``exam.json``."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """Accuracy of a run minus that of another one on the same questions."""

    name: str
    questions: int
    difference: ConfidenceInterval
    questions_to_separate: int | None
    """Questions that a difference of this size needs: 5 % test, 80 % power; None without a difference."""


def hold_exam(
    path: Path,
    *,
    suite: str = "small",
    blimp: Path | None = None,
    checkpoint: str = "best",
    weights: str = "trained",
    device: str = "auto",
    engine: str = "",
    report: Callable[[str], None] = lambda text: None,
) -> Exam:
    """Ask the run in ``path`` all questions, and save the result there.

    ``blimp``: directory with BLiMP's files, for its pairs as well. Raises UsageError for another suite, TextError
    without BLiMP's files, and the errors of loading a run.
    """
    if suite != "small":
        raise UsageError(f"There is no suite {suite!r:.40}.", hint="Use --suite small.")
    start = time.perf_counter()
    items = {name: make(count) for name, (make, count) in QUESTIONS.items()}
    if blimp:
        items |= {f"BLiMP {field}": of for field, of in blimp_items(blimp).items()}
    generator = load(path, checkpoint=checkpoint, weights=weights, device=device, engine=engine)
    module = importlib.import_module(f"fabella.evaluation.scoring.predictions_{generator.engine}")
    predict = partial(module.predictions, generator.model)
    tasks: list[ExamTask] = []
    for name, questions in items.items():
        report(f"Asking {len(questions)} questions: {name}.")
        tasks.append(_task(name, questions, predict, generator))
    warnings = list(generator.warnings)
    copies = _copies(RunDir.open(path), generator, report, warnings)
    seconds = time.perf_counter() - start
    exam = Exam(generator.step, suite, SEED, tuple(tasks), copies, seconds, tuple(warnings), weights)
    write_json(path / FILE, exam.as_json())
    return exam


def _task(name: str, items: Sequence[ExamItem], predict: Predict, generator: TextGenerator) -> ExamTask:
    context = generator.context_length
    pairs = [(item.before, choice) for item in items for choice in item.choices]
    tokens = max(context, min(8192, MAX_BATCH_LOGITS // generator.config.vocab_size))
    scores = iter(loglikelihoods(predict, generator.tokenizer, pairs, context=context, tokens=tokens))
    rows = [[score.nats for score in islice(scores, len(item.choices))] for item in items]
    right = [nats[0] > max(nats[1:]) for nats in rows]
    accuracy = proportion(sum(right), len(right))
    p = min(max(accuracy.value, 0.5 / len(right)), 1 - 0.5 / len(right))
    return ExamTask(
        name=name,
        questions=len(right),
        chance=math.fsum(1 / len(item.choices) for item in items) / len(items),
        accuracy=accuracy,
        separable=4 * math.sqrt(p * (1 - p) / len(right)),
        correct="".join("01"[is_right] for is_right in right),
    )


def _copies(
    run_dir: RunDir, generator: TextGenerator, report: Callable[[str], None], warnings: list[str]
) -> Copies | None:
    dataset = None if "imported_from" in run_dir.manifest else find_run_dataset(run_dir)
    if dataset is None:
        warnings.append("No copies: the training text is not known, or its dataset is missing.")
        return None
    if dataset.train.bytes > MAX_SEARCHED_BYTES:
        warnings.append("No copies: the training text is long. fabella evaluate without --suite searches it.")
        return None
    prompts, real = _beginnings(dataset)
    if not prompts:
        warnings.append(f"No copies: no held-out document has more than {PROMPT_WORDS} words.")
        return None
    report("Searching the training text for copies.")
    sampling = SamplingParams(temperature=0.8, top_p=0.95, seed=1)
    completions = generator.stream_many(prompts, sampling, max_tokens=COPY_TOKENS).completions()
    texts = [completion.completion for completion in completions]
    ids = [generator.tokenizer.encode(text)[:COPY_TOKENS].tolist() for text in real]
    shortened = [generator.tokenizer.decode(tokens) for tokens in ids]
    runs = memorization.find_copied([*texts, *shortened], text_of(dataset.train, dataset.tokenizer))
    lengths = [float(len(run.longest)) for run in runs]
    longest = max((run.longest for run in runs[: len(texts)]), key=len)
    return Copies(len(texts), mean(lengths[: len(texts)]), mean(lengths[len(texts) :]), " ".join(longest))


def _beginnings(dataset: TokenizedDataset) -> tuple[list[str], list[str]]:
    """Return the first words of held-out documents, and what follows them."""
    texts = islice(held_out_texts(dataset.validation, dataset.tokenizer), 4 * COPIES)
    pairs = [(text_metrics.first_words(text, PROMPT_WORDS), text) for text in texts]
    pairs = [(prompt, text[len(prompt) :]) for prompt, text in pairs if len(prompt) < len(text)][:COPIES]
    return [prompt for prompt, _ in pairs], [text for _, text in pairs]


def read_exam(path: Path) -> Mapping[str, Any]:
    """Return the saved exam of a run. Raises CheckpointError without one that can be read."""
    file = path / FILE
    try:
        result = json.loads(file.read_bytes())
    except (OSError, ValueError):
        result = None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise CheckpointError(
            f"{escaped(str(path), 500)} has no exam.",
            hint=f"Hold it: fabella evaluate {escaped(str(path), 500)} --suite small",
        )
    return result


def compare_exams(exam: Exam, other: Mapping[str, Any]) -> list[TaskDifference]:
    """Return the differences to a saved exam, for each task of both. Raises CheckpointError without one."""
    saved = {task["name"]: str(task["correct"]) for task in other["tasks"]} if other["seed"] == exam.seed else {}
    shared = [task for task in exam.tasks if len(saved.get(task.name, "")) == task.questions]
    if not shared:
        raise CheckpointError(
            "The exam of the other run has other questions.", hint="Hold it again: fabella evaluate RUN --suite small"
        )
    return [task_difference(task.name, task.correct, saved[task.name]) for task in shared]


def task_difference(name: str, first: str, second: str) -> TaskDifference:
    """Return the difference of two runs from their answers, paired by question.

    The number of questions follows from the variance d - δ² of a paired difference δ, where a share d of the questions
    is answered differently: n = 8 (d - δ²) / δ².
    """
    differences = np.array([int(a) - int(b) for a, b in zip(first, second, strict=True)])
    delta = float(differences.mean())
    needed = math.ceil(8 * (float(np.abs(differences).mean()) - delta**2) / delta**2) if delta else None
    interval = mean(differences.astype(np.float64).tolist())
    return TaskDifference(name, len(differences), interval, needed if needed is None else max(needed, 2))
