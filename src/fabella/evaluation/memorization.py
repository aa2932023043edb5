"""What of told stories stands word for word in the training text: exactly, all of it, in memory for the stories only.

The stories become a suffix automaton (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a
text"), and the training text runs through it word by word. Each state remembers the longest piece of training text
that arrived there; from this follows, for every word of every story, the longest copied run that ends with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabella.evaluation.word_splitting import words

Words = Sequence[int]


@dataclass(frozen=True, slots=True)
class CopiedRuns:
    """One story: for each of its words, how many words up to it stand in the training text in this order."""

    words: tuple[str, ...]
    runs: tuple[int, ...]

    @property
    def longest(self) -> tuple[str, ...]:
        """The longest run of words that was copied."""
        length = max(self.runs, default=0)
        end = self.runs.index(length) + 1 if length else 0
        return self.words[end - length : end]

    def seen(self, n: int) -> tuple[int, int]:
        """How many runs of ``n`` words stand in the training text, and how many there are."""
        return sum(run >= n for run in self.runs), max(0, len(self.words) - n + 1)


def find_copied(stories: Sequence[str], training: Iterable[str]) -> list[CopiedRuns]:
    """Look for each story in the text whose pieces, cut between words, are ``training``."""
    told = [words(story) for story in stories]
    numbers = {word: number for number, word in enumerate(sorted({word for story in told for word in story}), start=1)}
    automaton = SuffixAutomaton([[numbers[word] for word in story] for story in told])
    state, length = 0, 0
    for piece in training:
        state, length = automaton.feed([numbers.get(word, 0) for word in words(piece)], state, length)
    return [CopiedRuns(tuple(story), tuple(runs)) for story, runs in zip(told, automaton.runs(), strict=True)]


class SuffixAutomaton:
    """Every run of words of some texts; words are numbers from 1, and 0 is a word that none of them has."""

    def __init__(self, texts: Sequence[Words]) -> None:
        self._steps: list[dict[int, int]] = [{}]
        self._length = [0]
        """Words of the longest run that ends in each state."""
        self._shorter = [-1]
        """The state of the longest end of that run that is found elsewhere, too."""
        self._longest_read = [0]
        self._texts: list[list[int]] = []
        last = 0
        for number, text in enumerate(texts, start=1):
            states: list[int] = []
            for word in text:
                last = self._append(last, word)
                states.append(last)
            self._texts.append(states)
            last = self._append(last, -number)  # nothing reaches across texts

    def _append(self, last: int, word: int) -> int:
        new = self._add(self._length[last] + 1, {})
        at = last
        while at >= 0 and word not in self._steps[at]:
            self._steps[at][word] = new
            at = self._shorter[at]
        if at < 0:
            self._shorter[new] = 0
            return new
        found = self._steps[at][word]
        if self._length[found] == self._length[at] + 1:
            self._shorter[new] = found
            return new
        copy = self._add(self._length[at] + 1, dict(self._steps[found]))
        self._shorter[copy] = self._shorter[found]
        while at >= 0 and self._steps[at].get(word) == found:
            self._steps[at][word] = copy
            at = self._shorter[at]
        self._shorter[found] = self._shorter[new] = copy
        return new

    def _add(self, length: int, steps: dict[int, int]) -> int:
        self._steps.append(steps)
        self._length.append(length)
        self._shorter.append(0)
        self._longest_read.append(0)
        return len(self._steps) - 1

    def feed(self, text: Words, state: int = 0, length: int = 0) -> tuple[int, int]:
        """Follow a text from where an earlier part of it has led, to the state and length to be gone on from."""
        steps, lengths, shorter, longest = self._steps, self._length, self._shorter, self._longest_read
        for word in text:
            if not word:
                state = length = 0
                continue
            following = steps[state].get(word)
            if following is None:
                while state and following is None:
                    state = shorter[state]
                    following = steps[state].get(word)
                length = lengths[state]
                if following is None:
                    following, length = 0, -1
            state = following
            length += 1
            if length > longest[state]:
                longest[state] = length
        return state, length

    def runs(self) -> list[list[int]]:
        """For every word of every text, the longest run up to it that was read."""
        longest = list(self._longest_read)
        for state in sorted(range(1, len(longest)), key=self._length.__getitem__, reverse=True):
            if longest[state] and self._shorter[state]:  # then every shorter end of it was read, too
                longest[self._shorter[state]] = self._length[self._shorter[state]]
        found: list[list[int]] = []
        for states in self._texts:
            runs: list[int] = []
            for state in states:
                while state and not longest[state]:
                    state = self._shorter[state]
                runs.append(longest[state] if state else 0)
            found.append(runs)
        return found
