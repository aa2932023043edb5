"""Story or chat that a user and a model write in turns: the user's text, then the model's completion."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fabella.errors import UsageError, did_you_mean
from fabella.generation.completion import FinishReason
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from fabella.text.chat.template import Message

# No space is inserted between the story and user text that starts with one of these.
_NO_SPACE_BEFORE = tuple(" \n\t.,;:!?…)]}'’”\"-–—")  # noqa: RUF001 - punctuation that occurs in stories


@dataclass(slots=True)
class Turn:
    """One step of the story."""

    prompt: str
    """Text of the user."""
    completion: str = ""
    """Text of the model."""
    finish_reason: FinishReason | None = None
    """None while the completion is in progress, or if it was interrupted."""


class StorySession:
    """The story or chat so far and the settings of the next completion. Each regeneration uses the next seed."""

    def __init__(
        self,
        generator: TextGenerator,
        sampling: SamplingParams,
        *,
        max_tokens: int,
        stop: tuple[str, ...] = (),
        chat: bool = False,
    ) -> None:
        """``chat``: the turns are messages and answers in the chat template of the run."""
        self.turns: list[Turn] = []
        self.chat = chat
        self._generator, self._sampling, self._max_tokens, self._stop = generator, sampling, max_tokens, stop

    @property
    def text(self) -> str:
        """The whole story or chat."""
        if self.chat:
            return "\n\n".join(text for turn in self.turns for text in (turn.prompt, turn.completion) if text)
        return "".join(turn.prompt + turn.completion for turn in self.turns)

    def add(self, prompt: str) -> str:
        """Start a turn; return the user's text as it was added, with a leading space if one is needed.

        A message of a chat is added with the empty lines around it. Raises UsageError for an empty message.
        """
        if self.chat:
            if not prompt.strip():
                raise UsageError("The message is empty.", hint="Write a message; /help lists the commands.")
            self.turns.append(Turn(prompt))
            return f"\n{prompt}\n\n" if len(self.turns) > 1 else f"{prompt}\n\n"
        story = self.text
        needs_space = bool(story and prompt) and not story[-1].isspace() and not prompt.startswith(_NO_SPACE_BEFORE)
        self.turns.append(Turn(" " + prompt if needs_space else prompt))
        return self.turns[-1].prompt

    def generate(self) -> Iterator[str]:
        """Yield the completion of the last turn; text that was yielded stays in the story if the caller stops."""
        turn = self.turns[-1]
        options: dict[str, Any] = {"max_tokens": self._max_tokens, "stop": self._stop}
        stream = (
            self._generator.stream_chat(self._messages(), self._sampling, **options)
            if self.chat
            else self._generator.stream_many([self.text], self._sampling, **options)
        )
        for _, piece in stream:
            turn.completion += piece
            yield piece
        turn.finish_reason = stream.completions()[0].finish_reason

    def _messages(self) -> list[Message]:
        """Return all messages; the last one is the user's."""
        *earlier, last = self.turns
        pairs = [
            pair for turn in earlier for pair in (Message("user", turn.prompt), Message("assistant", turn.completion))
        ]
        return [*pairs, Message("user", last.prompt)]

    def regenerate(self) -> None:
        """Remove the last completion and take the next seed. Raises UsageError if the story is empty."""
        if not self.turns:
            raise UsageError("Nothing has been generated yet.", hint="Write the beginning of a story.")
        self.turns[-1] = Turn(self.turns[-1].prompt)
        self._sampling = replace(self._sampling, seed=(self._sampling.seed + 1) % 2**63)

    def undo(self) -> None:
        """Remove the last turn, including the user's text. Raises UsageError if the story is empty."""
        if not self.turns:
            raise UsageError("There is nothing to undo.", hint="Write the beginning of a story.")
        self.turns.pop()

    @property
    def settings(self) -> dict[str, int | float]:
        """Settings of the next completion by name."""
        numbers = {name: value for name, value in asdict(self._sampling).items() if name != "logit_bias"}
        return {"max_tokens": self._max_tokens, **numbers}

    def set(self, name: str, value: str) -> None:
        """Change one setting. Raises UsageError for an unknown name or a value out of range."""
        if name not in self.settings:
            raise UsageError(f"Unknown setting '{name}'.", hint=did_you_mean(name, self.settings))
        types = {field.name: field.type for field in fields(SamplingParams)}
        is_integer = name == "max_tokens" or types[name] in {int, "int"}
        try:
            number = int(value) if is_integer else float(value)
        except ValueError:
            kind = "an integer" if is_integer else "a number"
            raise UsageError(
                f"{name} = {value!r} is not {kind}.", hint=f"The current value is {self.settings[name]}."
            ) from None
        if name != "max_tokens":
            self._sampling = replace(self._sampling, **{name: number})
        elif number >= 1:
            self._max_tokens = int(number)
        else:
            raise UsageError(f"max_tokens = {number} is less than 1.", hint="A sentence has a few dozen tokens.")
