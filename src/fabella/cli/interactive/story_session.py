"""A story that a person and a model tell together, in turns: words of the person, then what the model adds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

from fabella.errors import UsageError, did_you_mean
from fabella.generation.completion import FinishReason
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams

# Before these, no space is put between the story and a person's words.
_JOINED = tuple(" \n\t.,;:!?…)]}'’”\"-–—")  # noqa: RUF001 - marks of the texts themselves


@dataclass(slots=True)
class Turn:
    """What was added at once."""

    words: str
    """Of the person"""
    told: str = ""
    """Of the model"""
    finish_reason: FinishReason | None = None
    """None while it is told, and where it was stopped"""


class Conversation:
    """The story so far, and how it goes on. Each telling has a seed of its own, one after the other."""

    def __init__(
        self, teller: TextGenerator, sampling: SamplingParams, *, tokens: int, stop: tuple[str, ...] = ()
    ) -> None:
        self.turns: list[Turn] = []
        self._teller, self._sampling, self._tokens, self._stop = teller, sampling, tokens, stop

    @property
    def text(self) -> str:
        """The whole story."""
        return "".join(turn.words + turn.told for turn in self.turns)

    def add(self, words: str) -> str:
        """Begin a turn; the person's words as they stand in the story, with a space before them where one belongs."""
        story = self.text
        apart = bool(story and words) and not story[-1].isspace() and not words.startswith(_JOINED)
        self.turns.append(Turn(" " + words if apart else words))
        return self.turns[-1].words

    def tell(self) -> Iterator[str]:
        """The model's part of the last turn, piece by piece; what was heard stays, wherever the listening ends."""
        turn = self.turns[-1]
        telling = self._teller.stream_many([self.text], self._sampling, max_tokens=self._tokens, stop=self._stop)
        for _, piece in telling:
            turn.told += piece
            yield piece
        turn.finish_reason = telling.completions()[0].finish_reason

    def again(self) -> None:
        """Forget what the model added last, so that it is told anew. Raises UsageError where nothing was told."""
        if not self.turns:
            raise UsageError("Nothing has been told yet.", hint="Write how the story begins.")
        self.turns[-1] = Turn(self.turns[-1].words)
        self._sampling = replace(self._sampling, seed=(self._sampling.seed + 1) % 2**63)

    def back(self) -> None:
        """Take the last turn away, the person's words too. Raises UsageError where there is none."""
        if not self.turns:
            raise UsageError("There is nothing to take back.", hint="Write how the story begins.")
        self.turns.pop()

    @property
    def settings(self) -> dict[str, int | float]:
        """By name; the seed is that of the next telling."""
        return {"tokens": self._tokens, **asdict(self._sampling)}

    def set(self, name: str, value: str) -> None:
        """Change one setting. Raises UsageError for an unknown name, and for a value out of bounds."""
        if name not in self.settings:
            raise UsageError(f"There is no setting '{name}'.", hint=did_you_mean(name, self.settings))
        whole = name == "tokens" or {field.name: field.type for field in fields(SamplingParams)}[name] in {int, "int"}
        try:
            number = int(value) if whole else float(value)
        except ValueError:
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"{name} = {value!r} is not {kind}.", hint=f"It is {self.settings[name]} now.") from None
        if name != "tokens":
            self._sampling = replace(self._sampling, **{name: number})
        elif number >= 1:
            self._tokens = int(number)
        else:
            raise UsageError(f"tokens = {number} is less than 1.", hint="A few dozen are a sentence or two.")
