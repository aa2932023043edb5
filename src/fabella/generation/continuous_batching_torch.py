"""Texts that come and go while others are told, with PyTorch: see slots.py for the contract."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.errors import UsageError
from fabella.generation.context_shift import UNLIMITED, context_start
from fabella.generation.continuous_batching import SampledToken, SequenceRequest, require_readable
from fabella.generation.decoder.backends_torch import decode_backend
from fabella.generation.decoder.native.bindings_torch import NativeBackend
from fabella.generation.decoder.native.sampler_torch import NativeSampler
from fabella.generation.decoder.weights import PrefillChunk
from fabella.generation.sampling import uniform_stream
from fabella.generation.sampling_torch import TokenSampler, TorchSampler

TOKENS_A_STEP = 64
"""Tokens of waiting prompts that one step reads: on a CPU about as long as a few tokens of telling."""


class ContinuousBatcher:
    """Texts being told lie in the first rows of a memory, the one being read in the row behind them.

    A text that leaves gives its row to the last one, so that there is no gap, no mask and no padding.
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        *,
        vocab_size: int,
        context: int = UNLIMITED,
        capacity: int = UNLIMITED,
        max_prefill_tokens: int = TOKENS_A_STEP,
    ) -> None:
        """``vocabulary``: ids from here on are never chosen. ``context``: how far a text may look back, where the model
        does not look back less. ``capacity``: the longest text that will come, if that is known."""
        config = model.config
        self._limit = context if config.unlimited_context else min(context, config.context_length)
        room = min(self._limit, capacity)
        self._rows = decode_backend(model, slots, room)
        self._vocabulary = min(vocab_size, config.vocab_size)
        self._chooser: TokenSampler = TorchSampler(self._vocabulary)
        if isinstance(self._rows, NativeBackend):
            self._chooser = NativeSampler(self._rows.library, slots, self._vocabulary)
        self._device = next(model.parameters()).device
        self._known, self._tokens_a_step = config.vocab_size, max_prefill_tokens
        self._slots, self._next = slots, 0
        self._texts: dict[int, _Text] = {}
        self._told: list[_Text] = []
        """By row."""
        self._waiting: deque[_Text] = deque()
        """To be read, the one that is being read first."""

    @property
    def free(self) -> int:
        """See slots.py."""
        return self._slots - len(self._texts)

    def add(self, request: SequenceRequest) -> int:
        """See slots.py."""
        require_readable(request.ids, self._known)
        if not self.free:
            raise UsageError(f"All {self._slots} slots are taken.", hint="Wait until a text has ended, or remove one.")
        number, self._next = self._next, self._next + 1
        text = _Text(number, request, self._limit, self._vocabulary, self._chooser, self._device)
        self._texts[number] = text
        self._waiting.append(text)
        return number

    def step(self) -> list[SampledToken]:
        """See slots.py."""
        found = self._decode()
        return [*found, *self._prefill()]

    def remove(self, number: int) -> None:
        """See slots.py."""
        text = self._texts.pop(number)
        if text in self._waiting:
            self._waiting.remove(text)
            text.read = text.start  # whoever comes next in this row begins anew
        else:
            self._remove_row(text)

    def _remove_row(self, text: "_Text") -> None:
        """Close the gap: the last text told takes the row, and the one being read moves up behind it."""
        row, last = self._told.index(text), len(self._told) - 1
        if row != last:
            self._rows.copy_row(last, row, self._told[last].read - self._told[last].start)
            self._told[row] = self._told[last]
        self._told.pop()
        if self._waiting and self._waiting[0].begun:
            self._rows.copy_row(last + 1, last, self._waiting[0].read - self._waiting[0].start)

    def _decode(self) -> list[SampledToken]:
        """One more id for each text that has been read."""
        for text in list(self._told):
            if context_start(len(text.ids), self._limit) != text.start:
                self._remove_row(text)
                text.restart(self._limit)
                # Before those that have said nothing yet: nobody shall wait in the middle of a story.
                self._waiting.insert(1 if self._waiting and self._waiting[0].begun else 0, text)
        if not self._told:
            return []
        tokens = [text.ids[-1] for text in self._told]
        logits = self._rows.decode(tokens, [text.read - text.start for text in self._told])
        for text in self._told:
            text.read += 1
        return self._choose(logits, self._told)

    def _prefill(self) -> list[SampledToken]:
        """Prompts in the order of their coming, and the first id of each that is read to its end."""
        left, parts, ready = self._tokens_a_step, list[PrefillChunk](), list[_Text]()
        while self._waiting and left:
            text, row = self._waiting[0], len(self._told)
            if not text.begun:
                self._rows.reset(row)
            parts.append(PrefillChunk(row, text.ids[text.read : text.read + left], text.read - text.start))
            text.read += len(parts[-1].tokens)
            left -= len(parts[-1].tokens)
            if text.read == len(text.ids):
                self._told.append(self._waiting.popleft())
                ready.append(text)
        if not parts:
            return []
        logits = self._rows.prefill(parts)
        return self._choose(logits[: len(ready)], ready) if ready else []

    def _choose(self, logits: Float[Tensor, "N V"], texts: Sequence["_Text"]) -> list[SampledToken]:
        wishes, uniform = [text.wishes for text in texts], [next(text.numbers) for text in texts]
        tokens = self._chooser.sample(logits, wishes, uniform)
        for text, token in zip(texts, tokens, strict=True):
            text.take(token)
        return [self._choice(text, tokens[row], logits, row) for row, text in enumerate(texts)]

    def _choice(self, text: "_Text", token: int, logits: Float[Tensor, "N V"], row: int) -> SampledToken:
        asked = text.request
        if not (asked.log_probabilities or asked.alternatives):
            return SampledToken(request=text.number, token=token)
        log_probabilities = logits[row, : self._vocabulary].float().log_softmax(0)
        best = log_probabilities.topk(min(asked.alternatives, len(log_probabilities)))
        return SampledToken(
            request=text.number,
            token=token,
            log_probability=float(log_probabilities[token]),
            alternatives=tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        )


class _Text:
    """A prompt and what was told after it."""

    def __init__(
        self,
        number: int,
        request: SequenceRequest,
        limit: int,
        vocab_size: int,
        chooser: TokenSampler,
        device: torch.device,
    ) -> None:
        self.number, self.request = number, request
        self.ids: list[int] = request.ids.tolist()
        self.numbers = uniform_stream(request.sampling.seed, request.row)
        self.restart(limit)
        self.seen: Tensor | None = None
        """[V]: the ids that are penalised, where any are."""
        if request.sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            known = torch.tensor(self.ids[request.opening :], dtype=torch.int64, device=device)
            self.seen[known[known < vocab_size]] = True
        self.wishes = chooser.sampler_state(request.sampling, self.seen)

    def restart(self, limit: int) -> None:
        """Nothing has been read of the window that the text is in."""
        self.start = self.read = context_start(len(self.ids), limit)

    @property
    def begun(self) -> bool:
        """Whether a part of the window has been read."""
        return self.read > self.start

    def take(self, token: int) -> None:
        """The text is longer by an id."""
        self.ids.append(token)
        if self.seen is not None:
            with torch.inference_mode():  # whoever made it may have been in that mode
                self.seen[token] = True
