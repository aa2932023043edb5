"""The loop that tells several texts at once, the same for attention and recurrence: the model's state is opaque."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fabella.config import ModelConfig
from fabella.errors import TokenizerError, UsageError
from fabella.generation.sampling import Sampling, uniforms
from fabella.generation.sampling_torch import choose
from fabella.generation.telling import READING
from fabella.generation.window import ENDLESS, window_start


class LanguageModel(Protocol):
    """What is needed of a model; see ``fabella.models``."""

    config: ModelConfig

    def parameters(self) -> Iterator[Tensor]: ...

    def start(self, batch: int, capacity: int) -> Any: ...

    def step(self, tokens: Int[Tensor, "B T"], state: Any) -> tuple[Float[Tensor, "B V"], Any]: ...


def generate(
    model: LanguageModel,
    prompts: Sequence[NDArray[np.int32]],
    sampling: Sampling,
    *,
    rows: Sequence[int],
    max_tokens: int,
    vocabulary: int,
    context: int = ENDLESS,
    opening: int = 0,
) -> Iterator[list[int]]:
    """Yield the ids chosen at each step, one a prompt, until the longest prompt has gained ``max_tokens``.

    All texts start at position 0 and grow together: the shortest prompt's length is read at once, and the rows
    whose prompts are longer read on (their id is ``READING``) while the others already tell. So no family needs
    masks or padding, and every text is the one that it would be alone, up to rounding. Whoever has enough stops
    asking; nothing here knows of ends.

    ``rows`` number the texts of one prompt (see ``uniforms``). Ids from ``vocabulary`` on are never chosen. When
    ``context`` positions are full, or all that a bounded model has, the text goes on in a window (see
    ``window_start``). The first ``opening`` ids of each prompt are not text, and not penalised as repetition.
    """
    _check(model.config, prompts)
    lengths = [len(prompt) for prompt in prompts]
    device = next(model.parameters()).device
    texts = _Texts(prompts, sampling, rows=rows, max_tokens=max_tokens, device=device)
    seen = texts.seen(opening, vocabulary) if sampling.repetition_penalty != 1.0 else None
    limit = context if model.config.unbounded else min(context, model.config.context)
    reader = _Reader(model, texts.ids, context=limit)
    for length in range(min(lengths), texts.total):
        # Entered anew for each step: a mode must not stay on while the caller has its turn.
        with torch.inference_mode():
            logits = reader.read(length)[:, :vocabulary]
            chosen = choose(logits, sampling, texts.uniform[:, length], seen)
            told = texts.lengths <= length
            texts.ids[:, length] = torch.where(told, chosen, texts.ids[:, length])
            if seen is not None:
                seen[texts.every_row, chosen] |= told
            step = torch.where(told, chosen, READING).tolist()
        yield step


def _check(config: ModelConfig, prompts: Sequence[NDArray[np.int32]]) -> None:
    if min((len(prompt) for prompt in prompts), default=0) < 1:
        raise UsageError("A prompt has no tokens, and a model needs one to go on from.", fix="Give its first words.")
    for prompt in prompts:
        wrong = prompt[(prompt < 0) | (prompt >= config.vocabulary)]
        if wrong.size:
            raise TokenizerError(
                f"id {wrong[0]} of the prompt is beyond the model's vocabulary of {config.vocabulary:,} ids.",
                fix="Encode the prompt with the tokenizer of the run.",
            )


class _Texts:
    """The ids of all texts, [B total]: prompts at the left, what is told after them, zeros beyond."""

    def __init__(
        self,
        prompts: Sequence[NDArray[np.int32]],
        sampling: Sampling,
        *,
        rows: Sequence[int],
        max_tokens: int,
        device: torch.device,
    ) -> None:
        self.total = max(len(prompt) for prompt in prompts) + max_tokens
        ids = np.zeros((len(prompts), self.total), dtype=np.int64)
        # The number that chooses position t of a row; each row's first number chooses its first id after the prompt.
        uniform = np.zeros((len(prompts), self.total), dtype=np.float32)
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            ids[index, : len(prompt)] = prompt
            uniform[index, len(prompt) :] = uniforms(sampling.seed, row, self.total - len(prompt))
        self.ids = torch.from_numpy(ids).to(device)
        self.uniform = torch.from_numpy(uniform).to(device)
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.every_row = torch.arange(len(prompts), device=device)

    def seen(self, opening: int, vocabulary: int) -> Tensor:
        """Which ids each prompt holds, [B V]."""
        seen = torch.zeros(len(self.lengths), vocabulary, dtype=torch.bool, device=self.ids.device)
        for row, length in enumerate(self.lengths.tolist()):
            ids = self.ids[row, opening:length]
            seen[row, ids[ids < vocabulary]] = True
        return seen


class _Reader:
    """Reads texts into the model's state, and reads their last part anew when the context is full."""

    def __init__(self, model: LanguageModel, ids: Int[Tensor, "B total"], *, context: int) -> None:
        self._model, self._ids, self._context = model, ids, context
        self._start = self._end = 0
        self._state: Any = None

    def read(self, length: int) -> Float[Tensor, "B V"]:
        """Logits after the first ``length`` ids of every text."""
        start = window_start(length, self._context)
        if self._state is None or start != self._start:
            rows, total = self._ids.shape
            self._state = self._model.start(rows, min(self._context, total))
            self._start = self._end = start
        logits, self._state = self._model.step(self._ids[:, self._end : length], self._state)
        self._end = length
        return logits
