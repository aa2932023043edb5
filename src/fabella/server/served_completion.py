"""Completions as a server returns them: deltas of whole characters with their tokens, and the echoed prompt."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fabella.generation.completion import ActiveCompletion, FinishReason
from fabella.generation.continuous_batching import SampledToken
from fabella.generation.detokenizer import IncrementalDetokenizer
from fabella.generation.likelihood import PromptScores, TokenLogprobs
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Token:
    """Token of a completion or of an echoed prompt with its log probabilities in nats."""

    id: int
    log_probability: float | None
    """None for the first token of a prompt, which nothing precedes."""
    alternatives: TokenLogprobs
    start: int
    """Offset in characters from the start of the prompt at which the token starts, or of the character that it is a
    part of."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text and tokens that one step adds to a completion. Joined, the deltas are the completion."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class PromptText:
    """Text of a prompt, and the offset in characters of each of its tokens."""

    text: str
    starts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, ids: NDArray[np.int32], tokenizer: Tokenizer) -> "PromptText":
        """Decode the ids; an incomplete character at the end becomes U+FFFD."""
        detokenizer, pieces, starts, length = IncrementalDetokenizer(tokenizer), list[str](), list[int](), 0
        for token in ids.tolist():
            starts.append(length)
            pieces.append(detokenizer.push(token))
            length += len(pieces[-1])
        return cls("".join(pieces) + detokenizer.end(), starts)


@dataclass(frozen=True, slots=True, eq=False)
class Echo:
    """Prompt that precedes a completion in the response, with the log probabilities of its tokens on request."""

    prompt: PromptText
    ids: NDArray[np.int32]
    """Token ids that the model reads, with an added EOS id."""
    num_prefix_tokens: int
    """1 if the EOS id was added, which is not echoed."""
    scored: bool
    """True if the response has log probabilities."""
    alternatives: int = 0
    """Number of most likely tokens to return with each token."""

    def delta(self, scores: PromptScores | None) -> Delta:
        """Return the prompt as a delta; ``scores`` are needed if it is scored.

        The first token has no log probability, as in OpenAI's API, also where the model predicts it after EOS.
        """
        if scores is None:
            return Delta(self.prompt.text)
        ids, first = self.ids[self.num_prefix_tokens :].tolist(), self.num_prefix_tokens
        tokens = [Token(ids[0], None, (), 0)] if ids else []
        tokens += [
            Token(token, scores.log_probabilities[index], scores.alternatives[index], start)
            for index, (token, start) in enumerate(zip(ids[1:], self.prompt.starts[1:], strict=True), start=first)
        ]
        return Delta(self.prompt.text, tuple(tokens))


class ServedCompletion:
    """Completion in progress, as deltas of whole characters; no delta contains a part of a stop sequence."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str],
        max_tokens: int,
        prompt_characters: int = 0,
        stop_ids: Set[int] = frozenset(),
    ) -> None:
        """``prompt_characters``: length of the prompt, from whose start offsets are counted."""
        self._completion = ActiveCompletion(tokenizer, stop=stops, max_tokens=max_tokens, stop_ids=stop_ids)
        self._offset = prompt_characters
        self._pending: list[Token] = []

    @property
    def tokens(self) -> int:
        """Sampled tokens, without EOS."""
        return self._completion.tokens

    @property
    def max_tokens(self) -> int:
        """Maximum number of sampled tokens; 0 if the request only scores or echoes its prompt."""
        return self._completion.max_tokens

    def append(self, sampled: SampledToken) -> Delta:
        """Return the delta of one more token."""
        if sampled.token not in self._completion.end_ids:
            start = self._offset + self._completion.decoded_chars
            self._pending.append(Token(sampled.token, sampled.log_probability, sampled.alternatives, start))
        return self._emit(self._completion.append(sampled.token))

    def truncate(self) -> Delta:
        """Return the last delta of a completion that ends now, with finish reason ``length``."""
        return self._emit(self._completion.truncate())

    def _emit(self, text: str) -> Delta:
        reason = self._completion.finish_reason
        # Tokens are held back with their text; those after the start of a stop sequence are dropped.
        everything, end = reason in {"eos", "length"}, self._offset + self._completion.returned_chars
        ready = [token for token in self._pending if everything or token.start < end]
        self._pending = self._pending[len(ready) :]
        return Delta(text, tuple(ready), reason)
