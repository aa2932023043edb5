"""Completions: finished ones, and those that still receive tokens."""

import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from fabella.generation.detokenizer import IncrementalDetokenizer, StopStrings
from fabella.tokenizers.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length"]
"""EOS or the token that ends an answer, a stop string, or the maximum number of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Text generated for one prompt."""

    prompt: str
    completion: str
    """The generated text, without the prompt and without the stop string that ended it."""
    finish_reason: FinishReason
    tokens: int
    """Generated tokens; the EOS token is not counted."""
    seconds: float
    """Time from the start of prefill to the last token."""
    context_shifts: int
    """Number of times the context was full and its second half was prefilled again."""

    @property
    def text(self) -> str:
        """The prompt followed by the completion."""
        return self.prompt + self.completion


class ActiveCompletion:
    """A completion in progress: detokenizes, and checks stop strings, EOS and the token limit.

    ``append`` returns text as soon as it is certain: whole characters only, never a part of a stop string. The pieces
    that ``append`` and ``truncate`` return, joined, are the completion. A caller that reports log-probabilities finds
    the text offset of the next token in ``decoded_chars``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        prompt: str = "",
        prompt_tokens: int = 0,
        stop_ids: Set[int] = frozenset(),
    ) -> None:
        """Start with an empty text; ``prompt`` is carried along for ``result``, ``prompt_tokens`` is its length.

        ``stop_ids``: token ids that end the completion as EOS does.
        """
        self.prompt, self.max_tokens = prompt, max_tokens
        self.finish_reason: FinishReason | None = None
        """Why the completion ended; None while it is in progress."""
        self.tokens = 0
        """Tokens appended so far; the EOS token is not counted."""
        self.decoded_chars = 0
        """Characters that the tokens have completed; the next token's text starts here, or inside this character."""
        self.returned_chars = 0
        """Characters returned so far: ``decoded_chars`` less those held back for a possible stop string."""
        self._prompt_tokens, self.end_ids = prompt_tokens, frozenset({tokenizer.eos_id, *stop_ids})
        """Token ids that end the completion"""
        self._detokenizer, self._stop = IncrementalDetokenizer(tokenizer), StopStrings(stop)
        self._pieces: list[str] = []
        self._start = time.perf_counter()
        self._seconds = 0.0

    def restart_clock(self) -> None:
        """Count ``seconds`` from now, when the prefill of the prompt starts."""
        self._start = time.perf_counter()

    def append(self, token: int) -> str:
        """Return the text that is certain after one more token id; empty after the end."""
        if self.finish_reason:
            return ""
        if token in self.end_ids:
            return self._finish("eos", "")
        self.tokens += 1
        decoded = self._detokenizer.push(token)
        self.decoded_chars += len(decoded)
        text = self._stop.push(decoded)
        if self._stop.matched or self.tokens == self.max_tokens:
            return self._finish("length", text)
        return self._return(text)

    def truncate(self) -> str:
        """End the completion now, with finish reason ``length``; return the text that was held back."""
        return "" if self.finish_reason else self._finish("length", "")

    def _finish(self, reason: FinishReason, text: str) -> str:
        """Release the held-back text, unless it completes a stop string."""
        text += self._stop.push(self._detokenizer.end()) + self._stop.end()
        self.finish_reason = "stop" if self._stop.matched else reason
        self._seconds = time.perf_counter() - self._start
        return self._return(text)

    def _return(self, text: str) -> str:
        self.returned_chars += len(text)
        self._pieces.append(text)
        return text

    @property
    def input_length(self) -> int:
        """Tokens of the prompt and the completion from which the last token was sampled."""
        return self._prompt_tokens + max(0, self.tokens - (self.finish_reason != "eos"))

    def result(self, *, context_shifts: int) -> Completion:
        """Return the completion; it must have ended."""
        assert self.finish_reason, "the completion is still in progress"
        return Completion(
            prompt=self.prompt,
            completion="".join(self._pieces),
            finish_reason=self.finish_reason,
            tokens=self.tokens,
            seconds=self._seconds,
            context_shifts=context_shifts,
        )


DecodeFn = Callable[[Sequence[int]], Iterator[list[int]]]
"""Yields, at each decode step, one token id for each of the completions with the given numbers."""


class CompletionStream:
    """Text of several completions as it is generated: an iterator, to be used once, of (number, piece of text)."""

    def __init__(
        self,
        active: Sequence[ActiveCompletion],
        batches: Sequence[Sequence[int]],
        decode: DecodeFn,
        context_shifts: Callable[[int], int],
    ) -> None:
        """Prepare to decode ``active`` batch after batch; nothing runs before the first iteration.

        ``batches`` holds numbers of completions; ``context_shifts`` maps an input length to the shifts it took.
        """
        self._active, self._batches, self._decode, self._context_shifts = active, batches, decode, context_shifts
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self._pieces

    @property
    def prompts(self) -> list[str]:
        """The prompt of each completion."""
        return [completion.prompt for completion in self._active]

    def _generate(self) -> Iterator[tuple[int, str]]:
        for batch in self._batches:
            completions = [self._active[number] for number in batch]
            for completion in completions:
                completion.restart_clock()
            for tokens in self._decode(batch):
                for number, completion, token in zip(batch, completions, tokens, strict=True):
                    if piece := completion.append(token):
                        yield number, piece
                if all(completion.finish_reason for completion in completions):
                    break

    def in_prompt_order(self) -> Iterator[tuple[int, str]]:
        """Iterate over the same text, one completion after the other.

        The current completion streams; the text of later ones is buffered until it has ended. The first piece of each
        is its buffered text, possibly empty.
        """
        buffered = [""] * len(self._active)
        for current, completion in enumerate(self._active):
            yield current, buffered[current]
            while not completion.finish_reason:
                received = next(self._pieces, None)
                if received is None:  # the last token of a completion may add no text
                    break
                number, piece = received
                if number == current:
                    yield current, piece
                else:
                    buffered[number] += piece

    def completions(self) -> list[Completion]:
        """Generate what is missing and return all completions in the order of the prompts."""
        for _ in self._pieces:
            pass
        return [
            completion.result(context_shifts=self._context_shifts(completion.input_length))
            for completion in self._active
        ]


def batch_prompts(lengths: Sequence[int], *, max_spread: int, max_batch_size: int) -> list[list[int]]:
    """Group prompts into batches whose lengths differ by at most ``max_spread`` tokens; return their numbers.

    A prompt that joins a longer one costs as many steps as the longer one has more tokens; a batch of its own costs
    all its steps. The batch of the first prompt comes first.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        batch = batches[-1] if batches else []
        if batch and len(batch) < max_batch_size and lengths[number] - lengths[batch[0]] <= max_spread:
            batch.append(number)
        else:
            batches.append([number])
    return sorted((sorted(batch) for batch in batches), key=min)
