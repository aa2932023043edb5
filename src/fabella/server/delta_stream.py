"""One text while it is told: what is certain after each id, and what is known of each token."""

from collections.abc import Sequence
from dataclasses import dataclass

from fabella.generation.completion import Ending
from fabella.generation.continuous_batching import SampledToken
from fabella.generation.detokenizer import IncrementalDetokenizer, StopStrings
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the text, in nats."""

    id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...]
    start: int
    """The character of the told text that it begins at, or inside of"""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to a text. Pieces joined are the text, and all of its tokens."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    ended_by: Ending | None = None


class ActiveCompletion:
    """Takes choices and gives pieces: whole characters, and never a part of a stop string."""

    def __init__(self, tokenizer: Tokenizer, *, stops: Sequence[str], max_tokens: int) -> None:
        self._end, self._stream, self._stops = tokenizer.eos_id, IncrementalDetokenizer(tokenizer), StopStrings(stops)
        self._max_tokens = max_tokens
        self.tokens = 0
        """Chosen so far; the end of the document is not counted"""
        self._read = self._given = 0
        """Characters that the tokens completed, and those that were given out"""
        self._held: list[Token] = []

    def append(self, choice: SampledToken) -> Delta:
        """The piece after one more choice."""
        if choice.token == self._end:
            return self._finish("end", "")
        self.tokens += 1
        self._held.append(Token(choice.token, choice.log_probability, choice.alternatives, self._read))
        text = self._stream.push(choice.token)
        self._read += len(text)
        certain = self._stops.push(text)
        if self._stops.found:
            return self._finish("stop", certain)
        if self.tokens == self._max_tokens:
            return self._finish("length", certain)
        return self._give(certain, None)

    def truncate(self) -> Delta:
        """The end of a text that is given up."""
        return self._finish("length", "")

    def _finish(self, ending: Ending, certain: str) -> Delta:
        if ending != "stop":
            certain += self._stops.push(self._stream.end())
            ending = "stop" if self._stops.found else ending
            certain += self._stops.end()
        return self._give(certain, ending)

    def _give(self, text: str, ending: Ending | None) -> Delta:
        self._given += len(text)
        # Tokens wait with their text; those behind a stop string are no part of it.
        everything = ending in {"end", "length"}
        ready = [token for token in self._held if everything or token.start < self._given]
        self._held = self._held[len(ready) :]
        return Delta(text, tuple(ready), ending)
