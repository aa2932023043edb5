"""Text statistics. Each number means something only in comparison with the same number of real text."""

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
OVERLAP = (2, 4, 8, 16)
SENTENCE_END = frozenset('.!?:\u2026"\u201d\u201c')
NAME = re.compile(r"[^\W\d_a-z]\w*[^\W\d_A-Z]\w*")
"""An uppercase letter followed by a lowercase one: Tom, but neither I nor TOM."""


@dataclass(frozen=True, slots=True)
class TextMetrics:
    """Statistics of several texts. Shares are from 0 to 1; a share of nothing is 0."""

    stories: int
    words_mean: float
    words_median: float
    ended: float
    """Share of texts that end before the token limit."""
    distinct: dict[int, float]
    """n → share of distinct n-grams among all n-grams (distinct-n, Li et al. 2016, arXiv 1510.03055)."""
    repeated: float
    """Share of 4-grams that occurred before in the same text (seq-rep-4, Welleck et al., arXiv 1908.04319)."""
    names_per_story: float
    name_consistency: float
    """Entity consistency: share of name mentions whose name occurs again in the text."""
    unknown_words: float
    """Share of words that do not occur in the training text."""
    ngram_overlap: dict[int, float]
    """n → share of n-grams that occur in the training text."""
    copied_mean: float
    """Mean length in words of the longest copied run of a text."""
    copied_longest: str
    """Longest copied run of all texts, as words joined by spaces."""


def measure(stories: Sequence[CopiedRuns], ended: Sequence[bool]) -> TextMetrics:
    """Return the statistics of at least one text; ``ended``: which texts end before the token limit."""
    texts = [story.words for story in stories]
    names = [Counter(names_in(story)) for story in texts]
    mentions = sum(counts.total() for counts in names)
    known = [run > 0 for story in stories for run in story.runs]
    longest = max((story.longest for story in stories), key=len)
    return TextMetrics(
        stories=len(stories),
        words_mean=fmean(map(len, texts)),
        words_median=float(median(map(len, texts))),
        ended=fmean(ended),
        distinct={n: _distinct(texts, n) for n in DISTINCT},
        repeated=_mean_repeated(texts),
        names_per_story=fmean(map(len, names)),
        name_consistency=_share(sum(count for counts in names for count in counts.values() if count > 1), mentions),
        unknown_words=_share(known.count(False), len(known)),
        ngram_overlap={
            n: _share(*map(sum, zip(*(story.ngram_overlap(n) for story in stories), strict=True))) for n in OVERLAP
        },
        copied_mean=fmean(len(story.longest) for story in stories),
        copied_longest=" ".join(longest),
    )


def names_in(story: Sequence[str]) -> list[str]:
    """Return every mention of a name: capitalized words inside a sentence, and all other occurrences of these."""
    inside = {word for before, word in pairwise(story) if before not in SENTENCE_END and NAME.fullmatch(word)}
    bare = [re.sub(r"['\u2019]s$", "", word) for word in story]
    names = {re.sub(r"['\u2019]s$", "", word) for word in inside}
    return [word for word in bare if word in names]


def ngrams(story: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all n-grams of words."""
    return [tuple(story[start : start + n]) for start in range(len(story) - n + 1)]


def first_words(text: str, count: int) -> str:
    """Return the start of a text up to its word number ``count``; all of it if it is shorter."""
    end = 0
    for word in words(text)[:count]:
        end = text.index(word, end) + len(word)
    return text[:end]


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    all_ngrams = [ngram for story in texts for ngram in ngrams(story, n)]
    return _share(len(set(all_ngrams)), len(all_ngrams))


def _mean_repeated(texts: Sequence[Sequence[str]]) -> float:
    per_story = [ngrams(story, REPEATED) for story in texts]
    return fmean(_share(len(grams) - len(set(grams)), len(grams)) for grams in per_story)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
