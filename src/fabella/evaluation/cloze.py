"""Cloze test on held-out documents: does the model prefer a document's own ending to the endings of others?

Follows the Story Cloze Test (Mostafazadeh et al. 2016, arXiv 1604.01696), with the user's own text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fabella.evaluation.confidence import ConfidenceInterval, proportion
from fabella.evaluation.loglikelihood import common_prefix
from fabella.evaluation.scoring.predictions import Predict
from fabella.models import IGNORE
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer

SENTENCE = re.compile(r"\S.*?[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019\u00bb)]*(?=\s|$)", re.DOTALL)
MIN_SENTENCES = 4
CHOICES = 5


@dataclass(frozen=True, slots=True)
class Cloze:
    """Result of the test. ``accuracy``: share of questions whose true ending has the fewest nats per byte."""

    questions: int
    choices: int
    accuracy: ConfidenceInterval
    chance: float


@dataclass(frozen=True, slots=True)
class Question:
    """A document without its last sentence, and the endings to choose from; the first one is its own."""

    story: str
    endings: tuple[str, ...]


def questions(stories: Sequence[str]) -> list[Question]:
    """Return a question per document of at least 4 sentences; wrong endings come from the next documents, in a ring."""
    parts = [part for story in stories if (part := split_ending(story))]
    result: list[Question] = []
    for number, (story, ending) in enumerate(parts):
        others = (parts[(number + step) % len(parts)][1] for step in range(1, len(parts)))
        wrong = list(dict.fromkeys(other for other in others if other != ending))[: CHOICES - 1]
        if len(wrong) == CHOICES - 1:
            result.append(Question(story, (ending, *wrong)))
    return result


def split_ending(story: str) -> tuple[str, str] | None:
    """Return the text before the last sentence, and that sentence with its leading space; None for few sentences."""
    sentences = list(SENTENCE.finditer(story.rstrip()))
    if len(sentences) < MIN_SENTENCES:
        return None
    end = sentences[-2].end()
    return story[:end], story.rstrip()[end:]


def run_cloze(predict: Predict, tokenizer: Tokenizer, test: Sequence[Question], *, context: int) -> Cloze:
    """Answer the questions whose endings have at most ``context`` / 2 tokens; a long document keeps its end only."""
    scores = [nats for question in test if (nats := _nats_per_byte(predict, tokenizer, question, context))]
    correct = sum(true < min(wrong) for true, *wrong in scores)
    return Cloze(len(scores), CHOICES, proportion(correct, len(scores)), 1 / CHOICES)


def _nats_per_byte(predict: Predict, tokenizer: Tokenizer, question: Question, context: int) -> list[float]:
    """Return the nats per byte of each ending; an empty list if one is too long."""
    prompt = tokenizer.encode(question.story)
    sequences = [np.append(tokenizer.encode(question.story + ending), tokenizer.eos_id) for ending in question.endings]
    starts = [common_prefix(prompt, sequence) for sequence in sequences]
    if max(len(sequence) - start for sequence, start in zip(sequences, starts, strict=True)) > context // 2:
        return []
    width = min(context, max(map(len, sequences)))
    tokens = np.full((len(sequences), width), tokenizer.eos_id, np.int32)
    targets = np.full((len(sequences), width), IGNORE, np.int32)
    for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        inputs = np.append(prefix_id(tokenizer), sequence[:-1])[-context:]
        scored = np.where(np.arange(len(sequence)) < start, IGNORE, sequence)[-context:]
        tokens[row, : len(inputs)], targets[row, : len(scored)] = inputs, scored
    nats = np.where(targets == IGNORE, 0.0, predict(tokens, targets).nats.astype(np.float64)).sum(axis=1)
    sizes = [len(ending.encode()) for ending in question.endings]
    return [float(total) / size for total, size in zip(nats, sizes, strict=True)]
