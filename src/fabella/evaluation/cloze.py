"""A cloze test made of held-out stories: does the model know which ending belongs to which story?

After the Story Cloze Test (Mostafazadeh et al. 2016, arXiv 1604.01696), but of the user's own text, with the endings of
other stories as the wrong ones.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.evaluation.confidence import ConfidenceInterval, proportion
from fabella.evaluation.predictions import Predict
from fabella.models import IGNORE
from fabella.tokenizers.tokenizer import Tokenizer

SENTENCE = re.compile(r"\S.*?[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019\u00bb)]*(?=\s|$)", re.DOTALL)
LEAST_SENTENCES = 4
CHOICES = 5


@dataclass(frozen=True, slots=True)
class Cloze:
    """``accuracy``: how often the true ending was the likeliest a byte; by chance it would be ``chance``."""

    questions: int
    choices: int
    accuracy: ConfidenceInterval
    chance: float


@dataclass(frozen=True, slots=True)
class Question:
    """A story without its last sentence, and endings: the first is its own."""

    story: str
    endings: tuple[str, ...]


def questions(stories: Sequence[str]) -> list[Question]:
    """One for each story of at least 4 sentences; the wrong endings are those of the next stories, in a ring."""
    cut = [found for story in stories if (found := split_ending(story))]
    asked: list[Question] = []
    for number, (story, ending) in enumerate(cut):
        others = (cut[(number + step) % len(cut)][1] for step in range(1, len(cut)))
        wrong = list(dict.fromkeys(other for other in others if other != ending))[: CHOICES - 1]
        if len(wrong) == CHOICES - 1:
            asked.append(Question(story, (ending, *wrong)))
    return asked


def split_ending(story: str) -> tuple[str, str] | None:
    """A story before its last sentence, and that sentence with the space before it."""
    found = list(SENTENCE.finditer(story.rstrip()))
    if len(found) < LEAST_SENTENCES:
        return None
    end = found[-2].end()
    return story[:end], story.rstrip()[end:]


def run_cloze(predict: Predict, tokenizer: Tokenizer, asked: Sequence[Question], *, context: int) -> Cloze:
    """Put the questions whose endings fill at most half of ``context``; of a longer story only the last part is read.

    Right is an answer where the true ending is less surprising than every other one.
    """
    answers = [answer for question in asked if (answer := _nats_a_byte(predict, tokenizer, question, context))]
    right = sum(true < min(wrong) for true, *wrong in answers)
    return Cloze(len(answers), CHOICES, proportion(right, len(answers)), 1 / CHOICES)


def _nats_a_byte(predict: Predict, tokenizer: Tokenizer, question: Question, context: int) -> list[float]:
    """How surprising each ending is; nothing where one is too long."""
    before = tokenizer.encode(question.story)
    lines = [np.append(tokenizer.encode(question.story + ending), tokenizer.eos_id) for ending in question.endings]
    firsts = [_same(before, line) for line in lines]
    if max(len(line) - first for line, first in zip(lines, firsts, strict=True)) > context // 2:
        return []
    width = min(context, max(map(len, lines)))
    tokens = np.full((len(lines), width), tokenizer.eos_id, np.int32)
    targets = np.full((len(lines), width), IGNORE, np.int32)
    for row, (line, first) in enumerate(zip(lines, firsts, strict=True)):
        read = np.append(tokenizer.eos_id, line[:-1])[-context:]
        wanted = np.where(np.arange(len(line)) < first, IGNORE, line)[-context:]
        tokens[row, : len(read)], targets[row, : len(wanted)] = read, wanted
    nats = np.where(targets == IGNORE, 0.0, predict(tokens, targets).nats.astype(np.float64)).sum(axis=1)
    sizes = [len(ending.encode()) for ending in question.endings]
    return [float(surprise) / size for surprise, size in zip(nats, sizes, strict=True)]


def _same(before: NDArray[np.int32], line: NDArray[np.int32]) -> int:
    """How many ids two lines begin with alike: a tokenizer may join the story's last letters to the ending's first."""
    shorter = min(len(before), len(line))
    differing = np.flatnonzero(before[:shorter] != line[:shorter])
    return int(differing[0]) if differing.size else shorter
