"""Stories: told ones, and ones that are still growing, id by id."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fabella.generation.detokenizer import IncrementalDetokenizer, StopStrings
from fabella.tokenizers.tokenizer import Tokenizer

PREFILLING = -1
"""Stands in place of an id where a text is still reading its own prompt."""

Ending = Literal["end", "stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One told text."""

    prompt: str
    completion: str
    """What the model added; without the stop string that ended it."""
    finish_reason: Ending
    """The model's own end of document, a stop string, or the largest number of tokens."""
    tokens: int
    """Chosen tokens; the end of document is not counted."""
    seconds: float
    """From the beginning of reading to the last token."""
    context_shifts: int
    """How many times the context was full and its last half was read anew."""

    @property
    def text(self) -> str:
        """The whole text, prompt and all."""
        return self.prompt + self.completion


class ActiveCompletion:
    """One text while it is being told."""

    def __init__(self, prompt: str, tokenizer: Tokenizer, *, read: int, stops: Sequence[str], max_tokens: int) -> None:
        """``read``: the number of ids that the model reads before it tells."""
        self.prompt, self.max_tokens = prompt, max_tokens
        self._read = read
        self.finish_reason: Ending | None = None
        self.tokens = 0
        self._end, self._stream, self._stops = tokenizer.eos_id, IncrementalDetokenizer(tokenizer), StopStrings(stops)
        self._pieces: list[str] = []
        self._began = self._seconds = 0.0

    def begin(self) -> None:
        """The model begins to read the prompt."""
        self._began = time.perf_counter()

    def take(self, token: int) -> str:
        """The text that is certain after one more id; nothing while reading, and once the text has ended."""
        if self.finish_reason or token == PREFILLING:
            return ""
        if token == self._end:
            return self._finish("end", "")
        self.tokens += 1
        piece = self._stops.push(self._stream.push(token))
        if self._stops.found or self.tokens == self.max_tokens:
            return self._finish("length", piece)
        return self._keep(piece)

    def _finish(self, ending: Ending, piece: str) -> str:
        """Give out what was held back, unless it completes a stop string."""
        piece += self._stops.push(self._stream.end()) + self._stops.end()
        self.finish_reason = "stop" if self._stops.found else ending
        self._seconds = time.perf_counter() - self._began
        return self._keep(piece)

    def _keep(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece

    @property
    def length(self) -> int:
        """Ids read and told so far, all that the last choice was made from."""
        return self._read + max(0, self.tokens - (self.finish_reason != "end"))

    def story(self, *, context_shifts: int) -> Completion:
        """The told story, once it has ended."""
        assert self.finish_reason, "the story is still being told"
        return Completion(
            prompt=self.prompt,
            completion="".join(self._pieces),
            finish_reason=self.finish_reason,
            tokens=self.tokens,
            seconds=self._seconds,
            context_shifts=context_shifts,
        )


Steps = Callable[[Sequence[int]], Iterator[list[int]]]
"""The ids chosen at each step for the texts with these numbers."""


class CompletionStream:
    """Several stories, told side by side: iterate, once, over (number of the story, piece of its text)."""

    def __init__(
        self,
        growing: Sequence[ActiveCompletion],
        batch_prompts: Sequence[Sequence[int]],
        steps: Steps,
        context_shifts: Callable[[int], int],
    ) -> None:
        """``groups``: the numbers of the stories whose ids are chosen together, one group after the other."""
        self._growing, self._groups, self._steps, self._rereads = growing, batch_prompts, steps, context_shifts
        self._pieces = self._tell()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self._pieces

    @property
    def prompts(self) -> list[str]:
        """The prompt of each story."""
        return [text.prompt for text in self._growing]

    def _tell(self) -> Iterator[tuple[int, str]]:
        for group in self._groups:
            texts = [self._growing[number] for number in group]
            for text in texts:
                text.begin()
            for step in self._steps(group):
                for number, text, token in zip(group, texts, step, strict=True):
                    if piece := text.take(token):
                        yield number, piece
                if all(text.finish_reason for text in texts):
                    break

    def in_prompt_order(self) -> Iterator[tuple[int, str]]:
        """The same pieces, story after story: one is heard as it grows, the later ones wait until it has ended.

        The first piece of each is what it has said so far, possibly nothing.
        """
        waiting = [""] * len(self._growing)
        for now, text in enumerate(self._growing):
            yield now, waiting[now]
            while not text.finish_reason:
                heard = next(self._pieces, None)
                if heard is None:  # the end of a story may be silent
                    break
                number, piece = heard
                if number == now:
                    yield now, piece
                else:
                    waiting[number] += piece

    def stories(self) -> list[Completion]:
        """All stories, in the order of the prompts; told to their ends first where they are still growing."""
        for _ in self._pieces:
            pass
        return [text.story(context_shifts=self._rereads(text.length)) for text in self._growing]


def groups(lengths: Sequence[int], *, spread: int, most: int) -> list[list[int]]:
    """Which texts are told together: at most ``most``, whose prompts differ by at most ``spread`` tokens.

    To join a longer prompt costs as many steps as it is longer; to tell it on its own costs all its steps. The group
    of the first text comes first.
    """
    found: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        group = found[-1] if found else []
        if group and len(group) < most and lengths[number] - lengths[group[0]] <= spread:
            group.append(number)
        else:
            found.append([number])
    return sorted((sorted(group) for group in found), key=min)
