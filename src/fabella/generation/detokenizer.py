"""Ids become text while it grows: whole characters only, and never a part of a string that ends the text."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from fabella.errors import UsageError


class TokenBytes(Protocol):
    """What is needed of a tokenizer."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""
        ...


class IncrementalDetokenizer:
    """The text of ids pushed one by one; its pieces joined are ``tokenizer.decode`` of all ids.

    A character split over tokens waits until it is whole: at most 3 bytes are ever held back. Bytes that are no
    UTF-8 become U+FFFD, at the same places as in ``bytes.decode("utf-8", "replace")``.
    """

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this token completes; often one word, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def end(self) -> str:
        """What remains: U+FFFD for a character that never became whole. The stream is then empty."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    @property
    def pending(self) -> bytes:
        """Bytes of an unfinished character, 3 at most."""
        return self._decoder.getstate()[0]


class StopStrings:
    """Text in pieces, cut before the first stop string that becomes complete.

    What could be the beginning of a stop string waits until it is known to be none. The result is that of reading
    the text character by character, however it is cut into pieces: the string that is complete first ends the
    text, and of several complete at once the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise UsageError("A stop string is empty, and would end every text at once.", hint="Give --stop some text.")
        self._stops = tuple(stops)
        self._held = ""
        self.found = ""
        """The string that ended the text; empty while none did."""

    def push(self, text: str) -> str:
        """The text that is certain now; nothing more once ``found`` is set."""
        if self.found:
            return ""
        text = self._held + text
        # Where each one ends and begins: the first to end wins, then the first to begin.
        matches = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stops if stop in text]
        if matches:
            _, start, self.found = min(matches)
            self._held = ""
            return text[:start]
        keep = self._unfinished(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and is no stop string after all."""
        text, self._held = self._held, ""
        return text

    def _unfinished(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
