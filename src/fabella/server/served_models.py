"""Served models: each one is a checkpoint of a run with the scheduler that decodes its sequences."""

import asyncio
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fabella.errors import UsageError, did_you_mean
from fabella.generation import generator
from fabella.generation.chat import chat_of
from fabella.generation.generator import TextGenerator
from fabella.generation.likelihood import PromptScores
from fabella.models.parameters import count
from fabella.models.registry import family_label
from fabella.runs.checkpoint import parse_which
from fabella.server.api_error import ApiError, quote
from fabella.server.limits import Limits
from fabella.server.requests.prompts import PromptEncoder
from fabella.server.scheduler import Events, Scheduler
from fabella.server.served_completion import Echo


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Run directory and checkpoint, as in ``runs/stories@latest``."""

    path: str
    checkpoint: str

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Parse ``PATH[@CHECKPOINT]``; the default is ``best``. A path may contain an @ of its own."""
        path, at, checkpoint = text.rpartition("@")
        try:
            return cls(path, str(parse_which(checkpoint))) if at else cls(text, "best")
        except UsageError:  # a part of the path
            return cls(text, "best")


@dataclass(slots=True)
class ServedModel:
    """A text generator with its public ``name``, limits and scheduler."""

    name: str
    generator: TextGenerator
    limits: Limits
    load: Callable[[], TextGenerator] | None = None
    """Loads the checkpoint again; None for a model without a run."""
    created: int = field(default_factory=lambda: int(time.time()))
    scheduler: Scheduler = field(init=False)
    encoder: PromptEncoder = field(init=False)

    def __post_init__(self) -> None:
        tokenizer, limit = self.generator.tokenizer, self.limits.prompt_tokens
        context = limit if self.generator.config.unlimited_context else self.generator.context_length
        self.encoder = PromptEncoder(
            tokenizer,
            max_tokens=min(context, limit) - 1,
            limited_by_option=limit < context or self.generator.config.unlimited_context,
            longest_token=max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)),
            chat=chat_of(tokenizer),
        )

    def open(self, post: Callable[[Events], None]) -> None:
        """Start the scheduler."""
        rows = self.limits.max_batch_size
        self.scheduler = Scheduler(
            lambda: self.generator.continuous_batcher(rows), max_batch_size=rows,
            max_queue_size=self.limits.max_queue_size, post=post, name=self.name, score_prompt=self._score_prompt(),
        )  # fmt: skip

    def _score_prompt(self) -> Callable[[Echo], PromptScores]:
        """Return a function that scores a prompt once for all completions of a request."""
        last: tuple[Echo, PromptScores] | None = None

        def score(echo: Echo) -> PromptScores:
            nonlocal last
            if last is None or last[0] is not echo:
                last = echo, self.generator.score_prompt(echo.ids, echo.alternatives)
            return last[1]

        return score

    def context_left(self, ids: Sized) -> int | None:
        """Return how many new tokens fit into the context after a prompt, at least 1; None without a limit."""
        if self.generator.config.unlimited_context:
            return None
        return max(1, self.generator.context_length - len(ids))

    def reloaded(self) -> "ServedModel":
        """Return this model with its newest checkpoint, without a scheduler.

        Raises UsageError for a model without a run, and the errors of ``generator.load``.
        """
        if not self.load:
            raise UsageError(f"Cannot reload {self.name}: it was not loaded from a run.")
        return replace(self, generator=self.load())

    def info(self) -> dict[str, Any]:
        """Return the entry of ``/v1/models``; the key ``fabella`` has what the story page shows."""
        details = {
            "step": self.generator.step,
            "weights": self.generator.weights,
            "parameters": count(self.generator.config.parameters()),
            "family": family_label(self.generator.config.family),
            "prompt_tokens": self.encoder.max_tokens,
            "max_tokens": self.limits.max_tokens,
            "prompts": list(self.generator.sample_prompts),
        }
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "fabella", "fabella": details}


class ServedModels:
    """Served models by name; the first one is the default."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = {model.name: model for model in models}
        self._draining: list[tuple[str, Scheduler]] = []
        """Replaced schedulers with the name of their model."""
        self._ended_tokens = dict.fromkeys(self.models, 0)
        """Tokens of the replaced schedulers that have ended."""

    def find(self, name: str) -> ServedModel:
        """Return a model; the first one for an empty name. Raises ApiError (404) for an unknown name."""
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            hint = did_you_mean(name[:100], self.models)
            message = f"The model {quote(name)} does not exist. {hint}"
            raise ApiError(message, status=404, param="model", code="model_not_found")
        return self.models[name]

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start all schedulers; their events are handled in ``loop``."""

        def post(events: Events) -> None:
            if events:
                loop.call_soon_threadsafe(_dispatch, events)  # one call per step, whatever the batch size

        self._post = post
        for model in self.models.values():
            model.open(post)

    def replace(self, model: ServedModel) -> None:
        """Serve ``model`` instead of the one with its name, which finishes its jobs and then ends."""
        model.open(self._post)
        old, self.models[model.name] = self.models[model.name], model
        old.scheduler.drain()
        draining, self._draining = [*self._draining, (model.name, old.scheduler)], []
        for name, scheduler in draining:
            if scheduler.alive:
                self._draining.append((name, scheduler))
            else:
                self._ended_tokens[name] += scheduler.tokens

    def generated_tokens(self, name: str) -> int:
        """Return the tokens that a model has generated since the server started, with all its checkpoints."""
        draining = sum(scheduler.tokens for owner, scheduler in self._draining if owner == name)
        return self._ended_tokens[name] + draining + self.models[name].scheduler.tokens

    def close(self) -> None:
        """End all threads."""
        for scheduler in (*(model.scheduler for model in self.models.values()), *(old for _, old in self._draining)):
            scheduler.close()

    @property
    def alive(self) -> bool:
        """True while every model's scheduler runs."""
        return all(model.scheduler.alive for model in self.models.values())


def load(runs: Sequence[str], *, device: str, limits: Limits, weights: str = "trained") -> ServedModels:
    """Load all runs. ``weights``: trained, or average for their average.

    Raises UsageError if two would have the same name, and the errors of ``generator.load``.
    """
    if not runs:
        raise UsageError("No run to serve.", hint="Give at least one run directory.")
    refs = [ModelRef.parse(text) for text in runs]
    return ServedModels(
        [
            _load(
                name,
                limits,
                partial(
                    generator.load,
                    ref.path,
                    checkpoint=ref.checkpoint,
                    weights=weights,
                    device=device,
                    engine="torch",
                ),
            )
            for name, ref in zip(_names(refs), refs, strict=True)
        ]
    )


def _load(name: str, limits: Limits, load: Callable[[], TextGenerator]) -> ServedModel:
    return ServedModel(name, load(), limits, load)


def _names(refs: Sequence[ModelRef]) -> list[str]:
    """Name each model after its run directory; add the checkpoint where two directories have the same name."""
    directories = [ref.path.rstrip("/").rsplit("/", 1)[-1] or ref.path for ref in refs]
    names = [
        f"{name}@{ref.checkpoint}" if directories.count(name) > 1 else name
        for name, ref in zip(directories, refs, strict=True)
    ]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate:
        raise UsageError(
            f"Two models would have the name '{duplicate}'.", hint="Rename one directory or use other checkpoints."
        )
    return names


def _dispatch(events: Events) -> None:
    for job, event in events:
        job.on_event(event)
