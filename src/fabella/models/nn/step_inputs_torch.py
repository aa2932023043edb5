"""What is read at once when texts are told: one more token of each of many, or a stretch of one.

A text has a row in everything that is remembered, from its position 0 on. Texts at different places need no padding.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fabella.models.nn.recurrence_torch import recur


class DecodeInputs:
    """One more token in each of the first N rows, at ``positions`` that may differ."""

    def __init__(
        self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " N"], *, shared_position: int = -1, max_length: int = 0
    ) -> None:
        """``same``: the position where it is one for all, else −1; ``longest``: one more than the largest, else."""
        self.tokens, self.positions, self.shared_position = tokens, positions, shared_position
        self._longest = max_length or shared_position + 1
        self._rows = torch.arange(len(tokens), device=tokens.device) if shared_position < 0 else tokens
        self._seen = (
            (torch.arange(self._longest, device=tokens.device) <= positions.unsqueeze(1))[:, None, None]
            if shared_position < 0
            else None
        )

    def of(self, table: Float[Tensor, "S *d"]) -> Float[Tensor, "#N *d"]:
        """The rows of ``table`` for these positions."""
        return table[self.positions] if self.shared_position < 0 else table.narrow(0, self.shared_position, 1)

    def attend(
        self, query: Float[Tensor, "N H E"], new: Float[Tensor, "N 2 K E"], memory: Float[Tensor, "R 2 K S E"]
    ) -> Float[Tensor, "N D"]:
        """Remember the new keys and values; each query looks at its own row up to its own position.

        The queries that share a key stand where attention has its time: all of them see the same.
        """
        rows = memory.narrow(0, 0, len(query))
        if self.shared_position >= 0:
            rows.select(3, self.shared_position).copy_(new)
        else:
            rows[self._rows, :, :, self.positions] = new
        keys, values = rows.narrow(3, 0, self._longest).unbind(1)
        grouped = query.view(len(query), keys.shape[1], -1, query.shape[2])
        return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=self._seen).flatten(1)

    def recur(self, both: Float[Tensor, "N 2S"], memory: Float[Tensor, "R S"]) -> Float[Tensor, "N S"]:
        """The next hidden states, which overwrite those before; ``both`` are gate and candidate side by side."""
        size = memory.shape[1]
        opened, candidate = both.sigmoid(), both.narrow(1, size, size)
        # g(x) = x + 0.5 for x ≥ 0 and σ(x) below is the larger of the two: σ is less steep than 1 everywhere
        towards = torch.maximum(opened.narrow(1, size, size), candidate + 0.5)
        hidden = memory.narrow(0, 0, len(both))
        return torch.lerp(hidden, towards, opened.narrow(1, 0, size), out=hidden)

    def last(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The vectors that something is chosen after: all of them."""
        return x


class PrefillInputs:
    """Several more tokens of the text in one row, from ``start`` on."""

    def __init__(self, tokens: Int[Tensor, " T"], row: int, start: int) -> None:
        self.tokens, self._row, self._start = tokens, row, start
        self._end = start + len(tokens)

    def of(self, table: Float[Tensor, "S *d"]) -> Float[Tensor, "T *d"]:
        """The rows of ``table`` for these positions."""
        return table[self._start : self._end]

    def attend(
        self, query: Float[Tensor, "T H E"], new: Float[Tensor, "T 2 K E"], memory: Float[Tensor, "R 2 K S E"]
    ) -> Float[Tensor, "T D"]:
        """Remember the new keys and values; each query looks at its own position and those before."""
        row = memory[self._row]
        row[:, :, self._start : self._end] = new.permute(1, 2, 0, 3)
        keys, values = row.narrow(2, 0, self._end).unsqueeze(1).unbind(0)
        grouped = query.shape[1] != keys.shape[1]
        whole = self._start == 0
        seen = torch.ones(len(query), self._end, dtype=torch.bool, device=query.device).tril(self._start)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys,
            values,
            attn_mask=None if whole else seen,
            is_causal=whole and len(query) > 1,
            enable_gqa=grouped,
        )
        return mixed[0].transpose(0, 1).flatten(1)

    def recur(self, both: Float[Tensor, "T 2S"], memory: Float[Tensor, "R S"]) -> Float[Tensor, "T S"]:
        """All hidden states of the stretch, the last of which is remembered."""
        gate, candidate = both.unsqueeze(0).chunk(2, dim=2)
        hidden = recur(gate, candidate, memory[self._row : self._row + 1])[0]
        memory[self._row] = hidden[-1]
        return hidden

    def last(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "1 D"]:
        """The vector that something is chosen after: the last one."""
        return x[-1:]


StepInputs = DecodeInputs | PrefillInputs
