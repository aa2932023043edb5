"""The models of one server: each a checkpoint of a run, with the thread that tells its texts."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabella.errors import UsageError, did_you_mean
from fabella.generation import generator as tellers
from fabella.generation.generator import TextGenerator
from fabella.models.parameters import count
from fabella.server.api_error import ApiError, quote
from fabella.server.limits import Limits
from fabella.server.requests import Prompt
from fabella.server.scheduler import News, Scheduler


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A run folder and its checkpoint, as in ``runs/stories@latest``."""

    path: str
    checkpoint: str

    @classmethod
    def read(cls, text: str) -> "ModelRef":
        """``best`` where no checkpoint is named; a folder may have an @ in its name."""
        path, at, checkpoint = text.rpartition("@")
        if at and (checkpoint in {"best", "latest"} or checkpoint.isdecimal()):
            return cls(path, checkpoint)
        return cls(text, "best")


@dataclass(slots=True)
class ServedModel:
    """A model that can be asked for by its ``name``."""

    name: str
    teller: TextGenerator
    limits: Limits
    load: Callable[[], TextGenerator] | None = None
    """Reads its checkpoint again"""
    created: int = field(default_factory=lambda: int(time.time()))
    scheduler: Scheduler = field(init=False)
    longest_token: int = field(init=False)
    """Bytes"""

    def __post_init__(self) -> None:
        tokenizer = self.teller.tokenizer
        self.longest_token = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))

    def open(self, post: Callable[[News], None]) -> None:
        """Begin to tell."""
        together = self.limits.max_batch_size
        self.scheduler = Scheduler(
            lambda: self.teller.slots(together), together=together, waiting=self.limits.max_queue_size, post=post,
            name=self.name,
        )  # fmt: skip

    def reloaded(self) -> "ServedModel":
        """The same model from its newest checkpoint, which tells nothing yet. Raises what ``teller.load`` raises."""
        if not self.load:
            raise UsageError(f"{self.name} was not read from a run.")
        return replace(self, teller=self.load())

    @property
    def most_prompt_tokens(self) -> int:
        """Tokens of a prompt that can be read, without the opening one that is read before it."""
        bound = self.limits.prompt_tokens if self.teller.config.unlimited_context else self.teller.context
        return min(bound, self.limits.prompt_tokens) - 1

    def ids(self, prompt: Prompt, truncate_to: int) -> NDArray[np.int32]:
        """What the model reads of a prompt, opening and all; takes time. Raises Refusal for what is too long."""
        most = min(self.most_prompt_tokens, truncate_to if truncate_to > 0 else self.most_prompt_tokens)
        if isinstance(prompt, list):
            found = self._known(prompt)
        else:
            found = self.teller.tokenizer.encode(self._within(prompt, most, cut=truncate_to != 0))
        if len(found) > most and not truncate_to:
            raise self._too_long(f"has {len(found):,} tokens")
        return self.teller.prepend_eos(found[max(0, len(found) - most) :])

    def _within(self, prompt: str, most: int, *, cut: bool) -> str:
        """Too long for any tokenization is found out without trying it."""
        if cut:
            return prompt[max(0, len(prompt) - most * self.longest_token) :]
        size = len(prompt.encode())
        if size > most * self.longest_token:
            raise self._too_long(f"has at least {-(-size // self.longest_token):,} tokens")
        return prompt

    def _known(self, ids: list[int]) -> NDArray[np.int32]:
        vocab_size = self.teller.tokenizer.vocab_size
        wrong = next((one for one in ids if not 0 <= one < vocab_size), None)
        if wrong is not None:
            message = f"prompt holds the id {quote(wrong)}; ids are from 0 to {vocab_size - 1:,}."
            raise ApiError(message, param="prompt")
        return np.array(ids, dtype=np.int32)

    def _too_long(self, what: str) -> ApiError:
        return ApiError(
            f"The prompt {what}; {self.name} reads at most {self.most_prompt_tokens:,}.",
            param="prompt",
            code="context_length_exceeded",
        )

    def info(self) -> dict[str, Any]:
        """As ``/v1/models`` lists it, with what the story page shows."""
        more = {
            "step": self.teller.step,
            "parameters": count(self.teller.config.parameters()),
            "family": self.teller.config.family,
            "prompt_tokens": self.most_prompt_tokens,
            "max_tokens": self.limits.max_tokens,
        }
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "fabella", "fabella": more}


class ServedModels:
    """Models by name; the first is the one that is meant where none is named."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = {model.name: model for model in models}
        self._retired: list[Scheduler] = []

    def find(self, name: str) -> ServedModel:
        """Raises Refusal (404) for a model that is not here."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            hint = did_you_mean(name[:100], self.models)
            message = f"There is no model {quote(name)}. {hint}"
            raise ApiError(message, status=404, param="model", code="model_not_found")
        return self.models[name]

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let every model tell; what it tells is heard in ``loop``."""

        def post(news: News) -> None:
            if news:
                loop.call_soon_threadsafe(_hand_out, news)  # once a step, however many texts are told

        self._post = post
        for model in self.models.values():
            model.open(post)

    def replace(self, model: ServedModel) -> None:
        """Let a model tell in place of the one of its name, which ends once its texts have."""
        model.open(self._post)
        old, self.models[model.name] = self.models[model.name], model
        old.scheduler.drain()
        self._retired = [one for one in (*self._retired, old.scheduler) if one.alive]

    def close(self) -> None:
        """End all threads."""
        for scheduler in (*(model.scheduler for model in self.models.values()), *self._retired):
            scheduler.close()

    @property
    def alive(self) -> bool:
        """Whether every model tells."""
        return all(model.scheduler.alive for model in self.models.values())


def load(runs: Sequence[str], *, device: str, limits: Limits) -> ServedModels:
    """Load every run. Raises UsageError for the same one twice, and what ``teller.load`` raises."""
    if not runs:
        raise UsageError("No run to serve.", hint="Give the folder of at least one.")
    wanted = [ModelRef.read(text) for text in runs]
    return ServedModels(
        [
            _read(
                name, limits, partial(tellers.load, one.path, checkpoint=one.checkpoint, device=device, engine="torch")
            )
            for name, one in zip(_names(wanted), wanted, strict=True)
        ]
    )


def _read(name: str, limits: Limits, load: Callable[[], TextGenerator]) -> ServedModel:
    return ServedModel(name, load(), limits, load)


def _names(wanted: Sequence[ModelRef]) -> list[str]:
    """The folder's own name, with what is needed to tell it from the others."""
    from_folder = [one.path.rstrip("/").rsplit("/", 1)[-1] or one.path for one in wanted]
    names = [
        f"{name}@{one.checkpoint}" if from_folder.count(name) > 1 else name
        for name, one in zip(from_folder, wanted, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"Two models would be called '{twice}'.", hint="Rename one folder, or name other checkpoints.")
    return names


def _hand_out(news: News) -> None:
    for ticket, one in news:
        ticket.on_event(one)
