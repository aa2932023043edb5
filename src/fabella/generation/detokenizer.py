"""Incremental detokenizer, and the search for stop strings in its output."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from fabella.errors import UsageError


class TokenBytes(Protocol):
    """The part of a tokenizer that the detokenizer uses."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token; empty for special tokens."""
        ...


class IncrementalDetokenizer:
    """Incremental detokenizer: its pieces, joined, equal ``tokenizer.decode`` of all ids.

    A character that is split over several tokens is held back until it is complete: at most 3 bytes. Invalid UTF-8
    becomes U+FFFD, in the same way as in ``bytes.decode("utf-8", "replace")``.
    """

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the characters that this token completes; often a word, possibly nothing."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def end(self) -> str:
        """Return U+FFFD if the last character is incomplete, else an empty string; reset the detokenizer."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    @property
    def pending(self) -> bytes:
        """Bytes of an incomplete character; at most 3."""
        return self._decoder.getstate()[0]


class StopStrings:
    """Stop-string search in text that arrives in pieces; the text is cut before the first stop string.

    Text that may be the start of a stop string is held back until the next pieces decide. The result does not depend
    on how the text is cut into pieces: the stop string that is complete first ends the text, and the longest one if
    several are complete at the same character.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise UsageError("A stop string is empty, and would end every text at once.", hint="Give --stop some text.")
        self._stops = tuple(stops)
        self._held_back = ""
        self.matched = ""
        """The stop string that ended the text; empty before that."""

    def push(self, text: str) -> str:
        """Return the text that is certain after one more piece; empty after a stop string has matched."""
        if self.matched:
            return ""
        text = self._held_back + text
        # (end, start, stop string): the first to end wins, then the first to start, which is the longest.
        matches = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stops if stop in text]
        if matches:
            _, start, self.matched = min(matches)
            self._held_back = ""
            return text[:start]
        keep = self._partial_match(text)
        self._held_back = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """Return the text that was held back, as no stop string followed."""
        text, self._held_back = self._held_back, ""
        return text

    def _partial_match(self, text: str) -> int:
        """Return the length of the longest suffix of ``text`` that is a prefix of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
