"""What can be counted in told stories; each number means something beside the same one of real stories."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from fabella.evaluation.memorization import CopiedRuns
from fabella.evaluation.word_splitting import words

DISTINCT = (1, 2, 3, 4)
REPEATED = 4
SEEN = (2, 4, 8, 16)
SENTENCE_END = frozenset('.!?:\u2026"\u201d\u201c')
NAME = re.compile(r"[^\W\d_a-z]\w*[^\W\d_A-Z]\w*")
"""A capital and something small behind it: Tom, but neither I nor TOM."""


@dataclass(frozen=True, slots=True)
class TextMetrics:
    """Of several stories. Shares are from 0 to 1, and 0 where there is nothing to have a share of."""

    stories: int
    words_mean: float
    words_median: float
    ended: float
    """Share that came to an end by themselves."""
    distinct: dict[int, float]
    """n → different runs of n words by all of them (distinct-n, Li et al. 2016, arXiv 1510.03055)."""
    repeated: float
    """Share of runs of 4 words that the same story has said before (seq-rep-4 of Welleck et al., arXiv 1908.04319)."""
    names_a_story: float
    name_consistency: float
    """Share of mentions of names whose name the story mentions again."""
    unknown_words: float
    """Share of words that the training text does not have."""
    ngram_overlap: dict[int, float]
    """n → share of runs of n words that stand in the training text."""
    copied_mean: float
    """Words of the longest copied run of a story, on average."""
    copied_longest: str
    """The longest copied run of all, its words with a space between."""


def measure(stories: Sequence[CopiedRuns], ended: Sequence[bool]) -> TextMetrics:
    """The measures of at least one story; ``ended``: which of them came to an end by themselves."""
    told = [story.words for story in stories]
    names = [Counter(names_in(story)) for story in told]
    mentions = sum(each.total() for each in names)
    known = [run > 0 for story in stories for run in story.runs]
    longest = max((story.longest for story in stories), key=len)
    return TextMetrics(
        stories=len(stories),
        words_mean=fmean(map(len, told)),
        words_median=float(median(map(len, told))),
        ended=fmean(ended),
        distinct={n: _distinct(told, n) for n in DISTINCT},
        repeated=_mean_repeated(told),
        names_a_story=fmean(map(len, names)),
        name_consistency=_share(sum(count for each in names for count in each.values() if count > 1), mentions),
        unknown_words=_share(known.count(False), len(known)),
        ngram_overlap={n: _share(*map(sum, zip(*(story.seen(n) for story in stories), strict=True))) for n in SEEN},
        copied_mean=fmean(len(story.longest) for story in stories),
        copied_longest=" ".join(longest),
    )


def names_in(story: Sequence[str]) -> list[str]:
    """Every mention of a name: a word with a capital that does not begin a sentence, and again wherever it stands."""
    inside = {word for before, word in pairwise(story) if before not in SENTENCE_END and NAME.fullmatch(word)}
    bare = [re.sub(r"['\u2019]s$", "", word) for word in story]
    names = {re.sub(r"['\u2019]s$", "", word) for word in inside}
    return [word for word in bare if word in names]


def runs(story: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of ``n`` words."""
    return [tuple(story[start : start + n]) for start in range(len(story) - n + 1)]


def first_words(text: str, count: int) -> str:
    """The first ``count`` words of a text as they stand there; all of it where it has no more."""
    end = 0
    for word in words(text)[:count]:
        end = text.index(word, end) + len(word)
    return text[:end]


def _distinct(told: Sequence[Sequence[str]], n: int) -> float:
    every = [run for story in told for run in runs(story, n)]
    return _share(len(set(every)), len(every))


def _mean_repeated(told: Sequence[Sequence[str]]) -> float:
    every = [runs(story, REPEATED) for story in told]
    return fmean(_share(len(each) - len(set(each)), len(each)) for each in every)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
