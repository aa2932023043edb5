"""Continuous batching with PyTorch; continuous_batching.py has the contract."""

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
from fabella.generation.sampling import LogitAdjustments, uniform_stream
from fabella.generation.sampling_torch import TokenSampler, TorchSampler

DEFAULT_PREFILL_TOKENS = 64
"""Prompt tokens prefilled per step; on a CPU they take about as long as a few decode steps."""


class ContinuousBatcher:
    """Batch whose first rows hold the decoding sequences, and the next row the one being prefilled.

    The last row moves into the row of a removed sequence: there are no gaps, no mask and no padding.
    """

    def __init__(
        self,
        model: Any,
        slots: int,
        *,
        vocab_size: int,
        context_length: int = UNLIMITED,
        capacity: int = UNLIMITED,
        max_prefill_tokens: int = DEFAULT_PREFILL_TOKENS,
    ) -> None:
        """Allocate ``slots`` rows. Ids from ``vocab_size`` on are never sampled.

        ``context_length`` can lower the limit of the model. ``capacity`` is the length of the longest sequence, if
        known.
        """
        config = model.config
        self._context_length = (
            context_length if config.unlimited_context else min(context_length, config.context_length)
        )
        self._backend = decode_backend(model, slots, min(self._context_length, capacity))
        self._vocab_size = min(vocab_size, config.vocab_size)
        self._sampler: TokenSampler = TorchSampler(self._vocab_size)
        if isinstance(self._backend, NativeBackend):
            self._sampler = NativeSampler(self._backend.library, slots, self._vocab_size)
        self._device = next(model.parameters()).device
        self._model_vocab_size, self._max_prefill_tokens = config.vocab_size, max_prefill_tokens
        self._slots, self._next_number = slots, 0
        self._sequences: dict[int, _Sequence] = {}
        self._decoding: list[_Sequence] = []
        """Sequences by row."""
        self._waiting: deque[_Sequence] = deque()
        """Sequences to prefill; the first one may be partly prefilled."""

    @property
    def free(self) -> int:
        """Number of sequences that can be added now."""
        return self._slots - len(self._sequences)

    def add(self, request: SequenceRequest) -> int:
        """Add a sequence and return its number, see the contract."""
        require_readable(request.ids, self._model_vocab_size)
        if not self.free:
            raise UsageError(
                f"All {self._slots} slots are in use.", hint="Wait until a sequence has ended, or remove one."
            )
        number, self._next_number = self._next_number, self._next_number + 1
        sequence = _Sequence(number, request, self._context_length, self._vocab_size, self._sampler, self._device)
        self._sequences[number] = sequence
        self._waiting.append(sequence)
        return number

    def step(self) -> list[SampledToken]:
        """Decode one token per sequence, then prefill, see the contract."""
        sampled = self._decode()
        return [*sampled, *self._prefill()]

    def remove(self, number: int) -> None:
        """Remove a sequence, see the contract."""
        sequence = self._sequences.pop(number)
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            sequence.computed = sequence.start  # the next sequence resets the row
        else:
            self._remove_row(sequence)

    def _remove_row(self, sequence: "_Sequence") -> None:
        """Move the last decoding sequence into the free row, and the one being prefilled after it."""
        row, last = self._decoding.index(sequence), len(self._decoding) - 1
        if row != last:
            self._backend.copy_row(last, row, self._decoding[last].computed - self._decoding[last].start)
            self._decoding[row] = self._decoding[last]
        self._decoding.pop()
        if self._waiting and self._waiting[0].begun:
            self._backend.copy_row(last + 1, last, self._waiting[0].computed - self._waiting[0].start)

    def _decode(self) -> list[SampledToken]:
        """Sample one more token of each sequence whose prompt is complete."""
        for sequence in list(self._decoding):
            if context_start(len(sequence.ids), self._context_length) != sequence.start:
                self._remove_row(sequence)
                sequence.restart(self._context_length)
                # Ahead of new prompts: a sequence should not pause in the middle of its text.
                self._waiting.insert(1 if self._waiting and self._waiting[0].begun else 0, sequence)
        if not self._decoding:
            return []
        tokens = [sequence.ids[-1] for sequence in self._decoding]
        positions = [sequence.computed - sequence.start for sequence in self._decoding]
        logits = self._backend.decode(tokens, positions)
        for sequence in self._decoding:
            sequence.computed += 1
        return self._sample(logits, self._decoding)

    def _prefill(self) -> list[SampledToken]:
        """Prefill prompts in the order of arrival; sample the first token of each that is complete."""
        budget, chunks, ready = self._max_prefill_tokens, list[PrefillChunk](), list[_Sequence]()
        while self._waiting and budget:
            sequence, row = self._waiting[0], len(self._decoding)
            if not sequence.begun:
                self._backend.reset(row)
            tokens = sequence.ids[sequence.computed : sequence.computed + budget]
            chunks.append(PrefillChunk(row, tokens, sequence.computed - sequence.start))
            sequence.computed += len(tokens)
            budget -= len(tokens)
            if sequence.computed == len(sequence.ids):
                self._decoding.append(self._waiting.popleft())
                ready.append(sequence)
        if not chunks:
            return []
        logits = self._backend.prefill(chunks)
        return self._sample(logits[: len(ready)], ready) if ready else []

    def _sample(self, logits: Float[Tensor, "N V"], sequences: Sequence["_Sequence"]) -> list[SampledToken]:
        states = [sequence.sampler_state for sequence in sequences]
        uniform = [next(sequence.uniform) for sequence in sequences]
        tokens = self._sampler.sample(logits, states, uniform)
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.append(token)
        return [self._sampled(sequence, tokens[row], logits, row) for row, sequence in enumerate(sequences)]

    def _sampled(self, sequence: "_Sequence", token: int, logits: Float[Tensor, "N V"], row: int) -> SampledToken:
        request = sequence.request
        if not (request.log_probabilities or request.alternatives):
            return SampledToken(request=sequence.number, token=token)
        log_probabilities = logits[row, : self._vocab_size].float().log_softmax(0)
        best = log_probabilities.topk(min(request.alternatives, len(log_probabilities)))
        return SampledToken(
            request=sequence.number,
            token=token,
            log_probability=float(log_probabilities[token]),
            alternatives=tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        )


class _Sequence:
    """A prompt and the tokens sampled after it."""

    def __init__(
        self,
        number: int,
        request: SequenceRequest,
        context_length: int,
        vocab_size: int,
        sampler: TokenSampler,
        device: torch.device,
    ) -> None:
        self.number, self.request = number, request
        self.ids: list[int] = request.ids.tolist()
        self.uniform = uniform_stream(request.sampling.seed, request.row)
        self.restart(context_length)
        self.seen: Tensor | None = None
        """Mask of the ids to penalize, [V]; None without a repetition penalty."""
        if request.sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            known = torch.tensor(self.ids[request.num_prefix_tokens :], dtype=torch.int64, device=device)
            self.seen[known[known < vocab_size]] = True
        self.added: Tensor | None = None
        """Numbers that are added to the logits, [V]; None without frequency and presence penalties and biases."""
        self._adjustments = LogitAdjustments(request.sampling, vocab_size)
        if request.sampling.adjusts_logits:
            self.added = torch.zeros(vocab_size, dtype=torch.float32, device=device)
            for token, bias in self._adjustments.initial.items():
                self.added[token] = bias
        self.sampler_state = sampler.sampler_state(request.sampling, self.seen, self.added)

    def restart(self, context_length: int) -> None:
        """Start the prefill of the current context from its first token."""
        self.start = self.computed = context_start(len(self.ids), context_length)

    @property
    def begun(self) -> bool:
        """True once the prefill of the current context has started."""
        return self.computed > self.start

    def append(self, token: int) -> None:
        """Append a sampled token."""
        self.ids.append(token)
        with torch.inference_mode():  # the tensors may have been created in inference mode
            if self.seen is not None:
                self.seen[token] = True
            if self.added is not None:
                self.added[token] = self._adjustments.append(token)
