"""Exact search for word sequences of generated text in the training text. Memory grows with the generated text only.

The generated texts become a suffix automaton (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a
text"), and the training text is fed to it word by word. Each state keeps the longest match of the training text that
reached it; from this follows, for every word of every text, the longest copied run that ends with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabella.evaluation.word_splitting import words

Words = Sequence[int]


@dataclass(frozen=True, slots=True)
class CopiedRuns:
    """Copied runs of one text: for each word, the length in words of the longest copied run that ends with it."""

    words: tuple[str, ...]
    runs: tuple[int, ...]

    @property
    def longest(self) -> tuple[str, ...]:
        """Longest copied run of words."""
        length = max(self.runs, default=0)
        end = self.runs.index(length) + 1 if length else 0
        return self.words[end - length : end]

    def ngram_overlap(self, n: int) -> tuple[int, int]:
        """Return the number of n-grams of words found in the training text, and the number of n-grams."""
        return sum(run >= n for run in self.runs), max(0, len(self.words) - n + 1)


def find_copied(texts: Sequence[str], training: Iterable[str]) -> list[CopiedRuns]:
    """Find the copied runs of each text. ``training``: chunks of the training text, cut between words."""
    split = [words(text) for text in texts]
    numbers = {word: number for number, word in enumerate(sorted({word for text in split for word in text}), start=1)}
    automaton = SuffixAutomaton([[numbers[word] for word in text] for text in split])
    state, length = 0, 0
    for chunk in training:
        state, length = automaton.feed([numbers.get(word, 0) for word in words(chunk)], state, length)
    return [CopiedRuns(tuple(text), tuple(runs)) for text, runs in zip(split, automaton.runs(), strict=True)]


class SuffixAutomaton:
    """All word sequences of some texts. Words are numbers from 1; 0 is a word that no text contains."""

    def __init__(self, texts: Sequence[Words]) -> None:
        self._steps: list[dict[int, int]] = [{}]
        self._length = [0]
        """Length in words of the longest sequence of each state."""
        self._shorter = [-1]
        """Suffix link: the state of the longest suffix that also occurs elsewhere."""
        self._longest_read = [0]
        self._texts: list[list[int]] = []
        last = 0
        for number, text in enumerate(texts, start=1):
            states: list[int] = []
            for word in text:
                last = self._append(last, word)
                states.append(last)
            self._texts.append(states)
            last = self._append(last, -number)  # no sequence spans two texts

    def _append(self, last: int, word: int) -> int:
        new = self._add(self._length[last] + 1, {})
        at = last
        while at >= 0 and word not in self._steps[at]:
            self._steps[at][word] = new
            at = self._shorter[at]
        if at < 0:
            self._shorter[new] = 0
            return new
        target = self._steps[at][word]
        if self._length[target] == self._length[at] + 1:
            self._shorter[new] = target
            return new
        copy = self._add(self._length[at] + 1, dict(self._steps[target]))
        self._shorter[copy] = self._shorter[target]
        while at >= 0 and self._steps[at].get(word) == target:
            self._steps[at][word] = copy
            at = self._shorter[at]
        self._shorter[target] = self._shorter[new] = copy
        return new

    def _add(self, length: int, steps: dict[int, int]) -> int:
        self._steps.append(steps)
        self._length.append(length)
        self._shorter.append(0)
        self._longest_read.append(0)
        return len(self._steps) - 1

    def feed(self, text: Words, state: int = 0, length: int = 0) -> tuple[int, int]:
        """Feed a chunk of text, starting from the result of the previous chunk; return (state, matched length)."""
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
        """Return, for every word of every text, the length of the longest fed run that ends with it."""
        longest = list(self._longest_read)
        for state in sorted(range(1, len(longest)), key=self._length.__getitem__, reverse=True):
            if longest[state] and self._shorter[state]:  # then its suffixes were fed too
                longest[self._shorter[state]] = self._length[self._shorter[state]]
        result: list[list[int]] = []
        for states in self._texts:
            runs: list[int] = []
            for state in states:
                while state and not longest[state]:
                    state = self._shorter[state]
                runs.append(longest[state] if state else 0)
            result.append(runs)
        return result
