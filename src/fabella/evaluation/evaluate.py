"""Evaluate a run: held-out scores, generated text compared with real text, cloze test, memorization.

The result is saved as ``evaluation.json`` in the run directory; its keys are the fields of the dataclasses below.
"""

import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fabella.config.data import Source
from fabella.data.dataset import Split, TokenizedDataset
from fabella.evaluation import cloze, memorization, text_metrics
from fabella.evaluation.cloze import Cloze
from fabella.evaluation.scoring.both_rules import score_by_rules
from fabella.evaluation.scoring.predictions import Predict
from fabella.evaluation.scoring.scores import Scores
from fabella.evaluation.text_metrics import TextMetrics
from fabella.evaluation.word_splitting import text_of
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.runs.run_dataset import open_run_dataset, remember_if_unlocked
from fabella.runs.run_dir import RunDir
from fabella.storage import write_json
from fabella.text import source as sources
from fabella.text.decode_policy import DecodeErrors

T = TypeVar("T")

FILE = "evaluation.json"
FORMAT = 2
PROMPT_WORDS = 6
"""Number of words of a held-out document that are the prompt of a sample."""
SHOWN_SAMPLES = 5
"""Number of samples whose text is part of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Settings of an evaluation."""

    checkpoint: str = "best"
    weights: str = "trained"
    """trained, or average for their average."""
    device: str = "auto"
    engine: str = ""
    """torch or jax; empty for the engine of the run."""
    data: Path | None = None
    """New path of the run's dataset, if it was moved; recorded in the run."""
    text: Source | None = None
    """Text for the scores instead of the run's held-out documents."""
    decode_errors: DecodeErrors = "strict"
    """Policy for damaged documents of ``text``."""
    rule: str = ""
    """Rule of the scores; empty for both, or for story only where line would take more than about a minute."""
    length: int = 0
    """Tokens of a sequence of line, and of the context of story; 0 for the context of the training."""
    max_bad_lines: int = 0
    """Broken lines of ``text`` that are skipped before reading fails."""
    num_samples: int = 64
    """Number of generated samples, each compared with a real text; 0 skips the comparison."""
    max_tokens: int = 256
    """Maximum length of a sample, generated or real, in tokens."""
    num_cloze: int = 200
    """Maximum number of cloze questions; 0 skips the test."""
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 1


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """Metrics of generated text and of real text after the same prompts. The prompts are not measured."""

    generated: TextMetrics
    real: TextMetrics
    samples: tuple[tuple[str, str], ...]
    """Some prompts with their completions."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation. ``warnings``: what could not be measured, and why."""

    step: int
    text: str
    context: int
    settings: dict[str, Any]
    scores: tuple[Scores, ...]
    """By each rule, ``story`` first."""
    samples: SampleComparison | None
    cloze: Cloze | None
    seconds: dict[str, float]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``evaluation.json``."""
        return {"format": FORMAT, **asdict(self)}

    def __repr__(self) -> str:
        scores = ", ".join(f"{each.bits_per_byte.value:.4f} bits per byte ({each.rule})" for each in self.scores)
        return f"Evaluation(step {self.step:,} on {self.text}: {scores})"


def evaluate(
    path: str | Path, config: EvalConfig | None = None, report: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Evaluate the run in ``path`` and save the result there, unless ``config.text`` is given.

    ``config``: by default that of ``fabella evaluate``. ``report`` is called with status messages. Raises StorageError
    without a run or checkpoint, PreparedDataError if the run's dataset is missing or has changed.
    """
    path, config = Path(path), config or EvalConfig()
    run_dir = RunDir.open(path)
    generator = load(
        path, checkpoint=config.checkpoint, weights=config.weights, device=config.device, engine=config.engine
    )
    module = importlib.import_module(f"fabella.evaluation.scoring.predictions_{generator.engine}")
    # An imported run has no dataset; the loss on another text needs none.
    needs_dataset = not config.text or config.num_samples or config.num_cloze or config.data is not None
    dataset = open_run_dataset(run_dir, config.data) if needs_dataset else None
    if config.data is not None and dataset is not None:
        remember_if_unlocked(run_dir, dataset, report)
    result = _Evaluation(generator, partial(module.predictions, generator.model), dataset, config, report).run()
    if config.text is None:
        write_json(path / FILE, result.as_json())
    return result


class _Evaluation:
    """One evaluation, part by part."""

    def __init__(
        self,
        generator: TextGenerator,
        predict: Predict,
        dataset: TokenizedDataset | None,
        config: EvalConfig,
        report: Callable[[str], None],
    ) -> None:
        self.generator, self.predict, self.dataset = generator, predict, dataset
        self.config, self.report = config, report
        self.warnings = list(generator.warnings)
        self.seconds: dict[str, float] = {}

    def run(self) -> Evaluation:
        """Measure all parts that the config selects."""
        config = self.config
        fields = ("weights", "num_samples", "max_tokens", "temperature", "top_p", "seed")
        held_out_scores = self._timed("scores", self._scores)
        real = self._real_texts() if config.num_samples or config.num_cloze else []
        samples = self._timed("samples", lambda: self._samples(real)) if config.num_samples else None
        cloze_result = self._timed("cloze", lambda: self._cloze(real)) if config.num_cloze else None
        return Evaluation(
            step=self.generator.step,
            text=sources.describe(config.text) if config.text else "held-out text",
            context=self.generator.context_length,
            settings={"prompt_words": PROMPT_WORDS} | {name: getattr(config, name) for name in fields},
            scores=held_out_scores,
            samples=samples,
            cloze=cloze_result,
            seconds=self.seconds,
            warnings=tuple(self.warnings),
        )

    def _timed(self, name: str, measure: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return measure()
        finally:
            self.seconds[name] = time.perf_counter() - start

    def _scores(self) -> tuple[Scores, ...]:
        config, generator = self.config, self.generator

        def texts() -> Iterable[str]:
            assert config.text
            return sources.documents(
                config.text,
                decode_errors=config.decode_errors,
                max_bad_lines=config.max_bad_lines,
                writer=generator.conversation_writer(),
            )

        text = self.dataset.validation if self.dataset is not None and not config.text else texts
        found, warnings = score_by_rules(
            self.predict, generator, text, config.rule, length=config.length, report=self.report
        )
        self.warnings += warnings
        return found

    def _real_texts(self) -> list[str]:
        """Return held-out documents, evenly spaced over the split."""
        assert self.dataset is not None
        split = self.dataset.validation
        count = min(max(self.config.num_samples, self.config.num_cloze) * 2, split.documents)
        chosen = np.unique(np.linspace(0, split.documents - 1, num=count).astype(np.int64))
        return [_text(split, number, self.generator) for number in chosen.tolist()]

    def _samples(self, real: Sequence[str]) -> SampleComparison | None:
        """Compare completions of the first words of real texts with the texts themselves.

        Returns None and adds a warning if no text is long enough.
        """
        config = self.config
        prompts = ((text_metrics.first_words(text, PROMPT_WORDS), text) for text in real)
        pairs = [(prompt, text) for prompt, text in prompts if len(prompt) < len(text)][: config.num_samples]
        if not pairs:
            self.warnings.append(f"No samples: no held-out document has more than {PROMPT_WORDS} words.")
            return None
        self.report(f"Generating {len(pairs)} samples.")
        sampling = SamplingParams(temperature=config.temperature, top_p=config.top_p, seed=config.seed)
        stream = self.generator.stream_many([prompt for prompt, _ in pairs], sampling, max_tokens=config.max_tokens)
        completions = stream.completions()
        truncated = [self._truncate(text[len(prompt) :]) for prompt, text in pairs]
        self.report("Searching the training text for copies.")
        texts = [completion.completion for completion in completions] + [text for text, _ in truncated]
        assert self.dataset is not None
        runs = memorization.find_copied(texts, text_of(self.dataset.train, self.generator.tokenizer))
        return SampleComparison(
            generated=text_metrics.measure(runs[: len(pairs)], [c.finish_reason == "eos" for c in completions]),
            real=text_metrics.measure(runs[len(pairs) :], [ended for _, ended in truncated]),
            samples=tuple((c.prompt, c.completion) for c in completions[:SHOWN_SAMPLES]),
        )

    def _truncate(self, text: str) -> tuple[str, bool]:
        """Return a real text cut to ``max_tokens``, and True if it was short enough."""
        ids = self.generator.tokenizer.encode(text)
        fits = len(ids) < self.config.max_tokens
        return (text if fits else self.generator.tokenizer.decode(ids[: self.config.max_tokens].tolist())), fits

    def _cloze(self, real: Sequence[str]) -> Cloze | None:
        questions = list(islice(cloze.questions(real), self.config.num_cloze))
        if not questions:
            self.warnings.append(
                f"No cloze test: it needs {cloze.CHOICES} held-out documents of {cloze.MIN_SENTENCES} sentences each."
            )
            return None
        self.report(f"Scoring the endings of {len(questions)} documents.")
        return cloze.run_cloze(self.predict, self.generator.tokenizer, questions, context=self.generator.context_length)


def _text(split: Split, number: int, generator: TextGenerator) -> str:
    start, stop = split.offsets[number : number + 2].tolist()
    return generator.tokenizer.decode(split.read(start, stop - 1).tolist())
