"""Evaluate a run: how well it predicts held-out text, how it tells stories, and what it copied, with real ones beside.

The result is kept as ``evaluation.json`` in the run folder; its names are those of the dataclasses below.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fabella.config.data import Source
from fabella.data.dataset import Split, TokenizedDataset, open_dataset
from fabella.errors import CheckpointError, PreparedDataError
from fabella.evaluation import cloze, memorization, scores, scoring_batches
from fabella.evaluation import text_metrics as stories
from fabella.evaluation.cloze import Cloze
from fabella.evaluation.predictions import Predict
from fabella.evaluation.scores import Scores
from fabella.evaluation.text_metrics import TextMetrics
from fabella.evaluation.word_splitting import text_of
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.runs.run_dir import RunDir
from fabella.storage import write_json
from fabella.text import source as sources

T = TypeVar("T")

FILE = "evaluation.json"
FORMAT = 1
OPENING_WORDS = 6
"""Of a held-out story, that the model goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What is to be measured. ``text``: other documents than the run's held-out ones, for the scores."""

    checkpoint: str = "best"
    device: str = "auto"
    engine: str = ""
    """torch or jax; empty: the one that the run was trained with."""
    text: Source | None = None
    stories: int = 64
    """Told stories, each with a real one beside; 0: none."""
    tokens: int = 256
    """The most of a story, told or real."""
    questions: int = 200
    """Of the cloze test; 0: none."""
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 1


@dataclass(frozen=True, slots=True)
class SampleComparison:
    """Told stories beside real ones that begin alike. The openings are not measured."""

    told: TextMetrics
    real: TextMetrics
    samples: tuple[tuple[str, str], ...]
    """Some openings, and what was told."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was measured. ``remarks``: what could not be, and why."""

    step: int
    text: str
    context: int
    settings: dict[str, Any]
    scores: Scores
    stories: SampleComparison | None
    cloze: Cloze | None
    seconds: dict[str, float]
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"format": FORMAT, **asdict(self)}


def evaluate(path: Path, asked: EvalConfig, report: Callable[[str], None] = lambda text: None) -> Evaluation:
    """Evaluate the run in ``path`` and keep the result there, unless ``asked.text`` is another text.

    ``report`` hears what is being done. Raises StorageError where there is no run or checkpoint, PreparedDataError
    where its data is gone or another.
    """
    folder = RunDir.open(path)
    teller = load(path, checkpoint=asked.checkpoint, device=asked.device, engine=asked.engine)
    module = importlib.import_module(f"fabella.evaluation.predictions_{teller.engine}")
    prepared = open_run_dataset(folder)
    work = _Evaluation(
        teller, partial(module.predictions, teller.model), prepared, asked, report, remarks=teller.warnings
    )
    result = work.all()
    if asked.text is None:
        write_json(path / FILE, result.as_json())
    return result


def open_run_dataset(folder: RunDir) -> TokenizedDataset:
    """The data that a run learned from. Raises PreparedDataError where it is gone or has changed."""
    known = folder.manifest.get("data", {})
    if not {"folder", "fingerprint"} <= set(known):
        raise CheckpointError(f"The manifest of {folder.path} does not say which data the run learned from.")
    prepared = open_dataset((folder.path / known["folder"]).resolve())
    if prepared.fingerprint != known["fingerprint"]:
        raise PreparedDataError(
            f"The data in {prepared.folder} is not what run {folder.path} learned from.",
            hint="Put the original folder back, or evaluate other text with --text.",
        )
    return prepared


class _Evaluation:
    """One evaluation, part by part."""

    def __init__(
        self, teller: TextGenerator, predict: Predict, prepared: TokenizedDataset, asked: EvalConfig, report: Callable[[str], None],
        *, remarks: Sequence[str],
    ) -> None:  # fmt: skip
        self.teller, self.predict, self.prepared, self.asked, self.report = teller, predict, prepared, asked, report
        self.remarks = list(remarks)
        self.seconds: dict[str, float] = {}

    def all(self) -> Evaluation:
        """Everything that was asked for."""
        asked = self.asked
        text = sources.describe(asked.text) if asked.text else "held-out text"
        settings = {"opening_words": OPENING_WORDS} | {
            name: getattr(asked, name) for name in ("stories", "tokens", "temperature", "top_p", "seed")
        }
        found = self._timed("scores", self._scores)
        real = self._real() if asked.stories or asked.questions else []
        told = self._timed("stories", lambda: self._stories(real)) if asked.stories else None
        answers = self._timed("cloze", lambda: self._cloze(real)) if asked.questions else None
        return Evaluation(
            self.teller.step,
            text,
            self.teller.context_length,
            settings,
            found,
            told,
            answers,
            self.seconds,
            tuple(self.remarks),
        )

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[name] = time.perf_counter() - began

    def _scores(self) -> Scores:
        teller, asked = self.teller, self.asked
        if asked.text:
            read = scoring_batches.of_texts(sources.documents(asked.text), teller.tokenizer)
        else:
            read = scoring_batches.held_out(self.prepared.validation)
        self.report("Reading the text.")
        return scores.score(
            self.predict,
            read,
            context=teller.context_length,
            vocab_size=teller.config.vocab_size,
            end=teller.tokenizer.eos_id,
        )

    def _real(self) -> list[str]:
        """Held-out stories, spread evenly over all of them."""
        split = self.prepared.validation
        wanted = max(self.asked.stories, self.asked.questions) * 2
        chosen = np.unique(np.linspace(0, split.documents - 1, num=min(wanted, split.documents)).astype(np.int64))
        return [_text(split, number, self.teller) for number in chosen.tolist()]

    def _stories(self, real: Sequence[str]) -> SampleComparison | None:
        """Stories told from the openings of real ones; nothing, with a remark, where none is long enough."""
        asked = self.asked
        begun = [
            (opening, text) for text in real if len(opening := stories.first_words(text, OPENING_WORDS)) < len(text)
        ]
        begun = begun[: asked.stories]
        if not begun:
            self.remarks.append(f"No stories were told: no held-out document has more than {OPENING_WORDS} words.")
            return None
        self.report(f"Telling {len(begun)} stories.")
        sampling = SamplingParams(temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed)
        told = self.teller.stream_many(
            [opening for opening, _ in begun], sampling, max_tokens=asked.tokens
        ).completions()
        rests = [self._cut(text[len(opening) :]) for opening, text in begun]
        self.report("Looking for them in the training text.")
        texts = [story.completion for story in told] + [rest for rest, _ in rests]
        found = memorization.find_copied(texts, text_of(self.prepared.train, self.teller.tokenizer))
        return SampleComparison(
            stories.measure(found[: len(told)], [story.finish_reason == "eos" for story in told]),
            stories.measure(found[len(told) :], [whole for _, whole in rests]),
            tuple((story.prompt, story.completion) for story in told[:5]),
        )

    def _cut(self, text: str) -> tuple[str, bool]:
        """A real story as far as it would have been told, and whether that is all of it."""
        ids = self.teller.tokenizer.encode(text)
        whole = len(ids) < self.asked.tokens
        return (text if whole else self.teller.tokenizer.decode(ids[: self.asked.tokens].tolist())), whole

    def _cloze(self, real: Sequence[str]) -> Cloze | None:
        asked = list(islice(cloze.questions(real), self.asked.questions))
        if not asked:
            self.remarks.append(
                f"No cloze test: it takes {cloze.CHOICES} held-out stories of {cloze.LEAST_SENTENCES} sentences each."
            )
            return None
        self.report(f"Asking for the endings of {len(asked)} stories.")
        return cloze.run_cloze(self.predict, self.teller.tokenizer, asked, context=self.teller.context_length)


def _text(split: Split, number: int, teller: TextGenerator) -> str:
    start, stop = split.offsets[number : number + 2].tolist()
    return teller.tokenizer.decode(split.read(start, stop - 1).tolist())
