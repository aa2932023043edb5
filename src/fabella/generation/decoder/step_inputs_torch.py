"""Inputs of one decode step: one more token of each of many sequences, or a chunk of one sequence.

Each sequence has one row in every cache, from its position 0. Sequences of different lengths need no padding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fabella.models.nn.recurrence_torch import recur


class KeptTensors:
    """What later operations of a step read again."""

    embedded: Float[Tensor, "N D"] | None = None
    """Start of the residual stream."""
    first_values: Float[Tensor, "N K E"] | None = None
    """Values of the first attention, if later ones read them."""
    normed: Float[Tensor, "N D"] | None = None
    convolved: Float[Tensor, "N D"] | None = None
    """Input and output of the last convolution, which the next mixer reads."""

    def mixer_inputs(self, x: Tensor, *, convolved: bool) -> tuple[Tensor, Tensor]:
        """Return what a mixer reads, and what its output gate reads: ``x``, or both ends of the convolution."""
        if not convolved:
            return x, x
        assert self.convolved is not None, "a convolution precedes"
        assert self.normed is not None, "a convolution precedes"
        return self.convolved, self.normed


class DecodeInputs(KeptTensors):
    """One more token in each of the first N rows, at ``positions`` that may differ (decode)."""

    def __init__(
        self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " N"], *, shared_position: int = -1, max_length: int = 0
    ) -> None:
        """``shared_position``: the position of all rows; −1 if they differ, then ``max_length`` is the largest + 1."""
        self.tokens, self.positions, self.shared_position = tokens, positions, shared_position
        self._max_length = max_length or shared_position + 1
        self._rows = torch.arange(len(tokens), device=tokens.device) if shared_position < 0 else tokens
        self._seen = (
            (torch.arange(self._max_length, device=tokens.device) <= positions.unsqueeze(1))[:, None, None]
            if shared_position < 0
            else None
        )

    def at_positions(self, table: Float[Tensor, " S *d"]) -> Float[Tensor, "#N *d"]:
        """Return the rows of ``table`` at these positions."""
        return table[self.positions] if self.shared_position < 0 else table.narrow(0, self.shared_position, 1)

    def attend(
        self,
        query: Float[Tensor, "N H E"],
        new: Float[Tensor, "N 2 K E"],
        cache: Float[Tensor, "R 2 K S E"],
        *,
        scale: float | None = None,
        window: int | None = None,
    ) -> Float[Tensor, "N D"]:
        """Store the new keys and values; each query attends to its own row up to its own position.

        It sees the last ``window`` positions, or all. ``scale`` of the products is 1/√E by default. Queries that share
        a key (grouped-query attention) take the place of the time dimension: all see the same keys.
        """
        rows = cache.narrow(0, 0, len(query))
        if self.shared_position >= 0:
            rows.select(3, self.shared_position).copy_(new)
        else:
            rows[self._rows, :, :, self.positions] = new
        first, seen = self._visible(window)
        keys, values = rows.narrow(3, first, self._max_length - first).unbind(1)
        grouped = query.view(len(query), keys.shape[1], -1, query.shape[2])
        return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=scale).flatten(1)

    def _visible(self, window: int | None) -> tuple[int, Bool[Tensor, "N 1 1 S"] | None]:
        """Return the first position that any row sees, and a mask from there on; None: every row sees all."""
        if window is None or self._max_length <= window:
            return 0, self._seen
        if self._seen is None:
            return self._max_length - window, None
        index = torch.arange(self._max_length, device=self.positions.device)
        return 0, self._seen & (index > self.positions.unsqueeze(1) - window)[:, None, None]

    def recur(self, gate_candidate: Float[Tensor, "N 2S"], cache: Float[Tensor, "R S"]) -> Float[Tensor, "N S"]:
        """Return the next hidden states, which overwrite the previous ones."""
        size = cache.shape[1]
        sigmoids, candidate = gate_candidate.sigmoid(), gate_candidate.narrow(1, size, size)
        # g(x) = x + 0.5 for x ≥ 0 and σ(x) below is the larger of the two: σ is less steep than 1 everywhere
        target = torch.maximum(sigmoids.narrow(1, size, size), candidate + 0.5)
        hidden = cache.narrow(0, 0, len(gate_candidate))
        return torch.lerp(hidden, target, sigmoids.narrow(1, 0, size), out=hidden)

    def convolve(
        self, x: Float[Tensor, "N D"], taps: Float[Tensor, "K+1 D"], cache: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "N D"]:
        """Return x + Σ taps · (the last K + 1 inputs of each row), of which the cache keeps the last K."""
        past = cache.narrow(0, 0, len(x))
        inputs = torch.cat((past, x.unsqueeze(1)), dim=1)
        past.copy_(inputs.narrow(1, 1, past.shape[1]))
        return x + (inputs * taps).sum(1)

    def last(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Return the vectors to compute logits for: all."""
        return x


class PrefillInputs(KeptTensors):
    """Several more tokens of the sequence in one row, from position ``start`` (prefill)."""

    def __init__(self, tokens: Int[Tensor, " T"], row: int, start: int) -> None:
        self.tokens, self._row, self._start = tokens, row, start
        self._end = start + len(tokens)

    def at_positions(self, table: Float[Tensor, " S *d"]) -> Float[Tensor, " T *d"]:
        """Return the rows of ``table`` at these positions."""
        return table[self._start : self._end]

    def attend(
        self,
        query: Float[Tensor, "T H E"],
        new: Float[Tensor, "T 2 K E"],
        cache: Float[Tensor, "R 2 K S E"],
        *,
        scale: float | None = None,
        window: int | None = None,
    ) -> Float[Tensor, "T D"]:
        """Store the new keys and values; each query attends to its own position and to those before it.

        It sees the last ``window`` positions, or all. ``scale`` of the products is 1/√E by default.
        """
        row = cache[self._row]
        row[:, :, self._start : self._end] = new.permute(1, 2, 0, 3)
        keys, values = row.narrow(2, 0, self._end).unsqueeze(1).unbind(0)
        grouped = query.shape[1] != keys.shape[1]
        cut = window is not None and self._end > window
        from_start = self._start == 0 and not cut
        seen = torch.ones(len(query), self._end, dtype=torch.bool, device=query.device).tril(self._start)
        if window is not None:
            seen = seen.triu(self._start - window + 1)
        attn_out = functional.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys,
            values,
            attn_mask=None if from_start else seen,
            is_causal=from_start and len(query) > 1,
            scale=scale,
            enable_gqa=grouped,
        )
        return attn_out[0].transpose(0, 1).flatten(1)

    def recur(self, gate_candidate: Float[Tensor, "T 2S"], cache: Float[Tensor, "R S"]) -> Float[Tensor, "T S"]:
        """Return all hidden states of the chunk, and store the last."""
        gate, candidate = gate_candidate.unsqueeze(0).chunk(2, dim=2)
        hidden = recur(gate, candidate, cache[self._row : self._row + 1])[0]
        cache[self._row] = hidden[-1]
        return hidden

    def convolve(
        self, x: Float[Tensor, "T D"], taps: Float[Tensor, "K+1 D"], cache: Float[Tensor, "R K D"]
    ) -> Float[Tensor, "T D"]:
        """Return x + Σ taps · (the last K + 1 inputs of each position), of which the cache keeps the last K."""
        inputs = torch.cat((cache[self._row], x))
        cache[self._row] = inputs[len(x) :]
        y = x
        for start, tap in enumerate(taps):
            y = torch.addcmul(y, inputs[start : start + len(x)], tap)
        return y

    def last(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "1 D"]:
        """Return the vector to compute logits for: the last one."""
        return x[-1:]


StepInputs = DecodeInputs | PrefillInputs
