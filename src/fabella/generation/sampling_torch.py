"""Token sampling by inverse CDF: one uniform number per row, a cumulative sum and a binary search.

``torch.multinomial`` draws one random number per vocabulary entry and takes ten to twenty-five times as long.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fabella.generation.sampling import MIN_TEMPERATURE, SamplingParams, unsampleable_error

# The nucleus of a trained model is small: search it among a few candidates before sorting the vocabulary.
_CANDIDATES = (64,)


class TokenSampler(Protocol):
    """Samples tokens for several sequences at once, each with its own parameters."""

    def sampler_state(
        self, sampling: SamplingParams, seen: Bool[Tensor, " V"] | None, added: Float[Tensor, " V"] | None = None
    ) -> Any:
        """Return what ``sample`` needs of a sequence until it ends.

        ``seen`` masks the ids of the repetition penalty; ``added`` is added to the logits. Both may change in place.
        """
        ...

    def sample(self, logits: Float[Tensor, "N V"], sampler_state: Sequence[Any], uniform: Sequence[float]) -> list[int]:
        """Return the next token id of every row, from its sampler state and its uniform number in [0, 1).

        Raises NumericsError if a row has NaN or +infinity, or nothing but -infinity.
        """
        ...


class TorchSampler:
    """Token sampler that calls ``sample`` once for all rows with equal parameters."""

    def __init__(self, vocab_size: int) -> None:
        """Never sample ids from ``vocab_size`` on."""
        self._vocab_size = vocab_size

    def sampler_state(
        self, sampling: SamplingParams, seen: Bool[Tensor, " V"] | None, added: Float[Tensor, " V"] | None = None
    ) -> "_RowState":
        """Implements TokenSampler."""
        plain = replace(sampling, seed=0, frequency_penalty=0.0, presence_penalty=0.0, logit_bias=())
        return _RowState((plain, added is not None), seen, added)

    def sample(
        self,
        logits: Float[Tensor, "N V"],
        sampler_state: Sequence["_RowState"],
        uniform: Sequence[float],
    ) -> list[int]:
        """Implements TokenSampler."""
        logits, uniforms = logits[:, : self._vocab_size], torch.tensor(uniform, device=logits.device)
        tokens = torch.empty(len(sampler_state), dtype=torch.int64, device=logits.device)
        groups: dict[tuple[SamplingParams, bool], list[int]] = {}
        for row, state in enumerate(sampler_state):
            groups.setdefault(state.group, []).append(row)
        for (sampling, _), group in groups.items():
            rows = slice(None) if len(group) == len(sampler_state) else torch.tensor(group, device=logits.device)
            masks = [seen for row in group if (seen := sampler_state[row].seen) is not None]
            added = [numbers for row in group if (numbers := sampler_state[row].added) is not None]
            tokens[rows] = sample(
                logits[rows],
                sampling,
                uniforms[rows],
                torch.stack(masks) if masks else None,
                torch.stack(added) if added else None,
            )
        return tokens.tolist()


class _RowState(NamedTuple):
    """Sampler state of one row; rows of one ``group`` are sampled in one call."""

    group: tuple[SamplingParams, bool]
    seen: Tensor | None
    added: Tensor | None


def sample(
    logits: Float[Tensor, "B V"],
    sampling: SamplingParams,
    uniform: Float[Tensor, " B"],
    seen: Bool[Tensor, "B V"] | None = None,
    added: Float[Tensor, "B V"] | None = None,
) -> Int[Tensor, " B"]:
    """Return the next token id of every row. ``uniform`` is in [0, 1).

    ``seen`` masks the ids of the repetition penalty; ``added`` is added to the logits after it.
    Greedy sampling takes the lowest id among equals. Raises NumericsError if a row has NaN or +infinity, or nothing but
    -infinity; single ids at -infinity are never sampled.
    """
    logits = logits.float()
    if seen is not None and sampling.repetition_penalty != 1.0:
        logits = _repetition_penalty(logits, seen, sampling.repetition_penalty)
    if added is not None:
        logits = logits + added
    if sampling.temperature == 0.0:
        likeliest = _argmax(logits)
        _require_finite(logits.gather(-1, likeliest.unsqueeze(-1)))
        return likeliest
    top = logits.amax(-1, keepdim=True)
    _require_finite(top)
    weights = ((logits - top) / max(sampling.temperature, MIN_TEMPERATURE)).exp()
    return _inverse_cdf(_filter(weights, sampling), uniform.unsqueeze(-1))


def _argmax(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """Return the lowest id of the maximum, or that of a NaN. NumPy is ten times as fast on a CPU."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))


def _repetition_penalty(
    logits: Float[Tensor, "B V"], seen: Bool[Tensor, "B V"], penalty: float
) -> Float[Tensor, "B V"]:
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _require_finite(top: Float[Tensor, "B 1"]) -> None:
    # The maximum is NaN where a row holds NaN, and -infinity where it holds nothing else.
    if not torch.isfinite(top).all():
        row = int((~torch.isfinite(top)).flatten().int().argmax())
        raise unsampleable_error(row, float(top[row, 0]))


def _filter(weights: Float[Tensor, "B V"], sampling: SamplingParams) -> Float[Tensor, "B V"]:
    """Zero the tokens that top-k, top-p and min-p drop. The most likely token has weight 1."""
    vocab_size = weights.shape[-1]
    threshold = torch.full_like(weights[:, :1], sampling.min_p)
    if 0 < sampling.top_k < vocab_size:
        least = weights.topk(sampling.top_k).values[:, -1:]
        threshold = torch.maximum(threshold, least)
        if sampling.top_p < 1.0:
            kept = torch.where(weights >= least, weights, 0.0)
            threshold = torch.maximum(threshold, _least_of_nucleus(kept, sampling.top_p))
    elif sampling.top_p < 1.0:
        threshold = torch.maximum(threshold, _least_of_nucleus(weights, sampling.top_p))
    elif sampling.min_p == 0.0:
        return weights
    return torch.where(weights >= threshold, weights, 0.0)


def _least_of_nucleus(weights: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B 1"]:
    """Return the weight of the last token that the nucleus needs to reach ``share`` of all weight."""
    wanted = weights.sum(-1, keepdim=True) * share
    ordered, sums = _most_likely(weights, wanted)
    # First index at which the sum reaches the share; rounding may keep the total just below it.
    last = torch.searchsorted(sums, wanted).clamp_(max=ordered.shape[-1] - 1)
    return ordered.gather(-1, last)


def _most_likely(
    weights: Float[Tensor, "B V"], wanted: Float[Tensor, "B 1"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Return the largest weights in order, at least as many as sum to ``wanted``, with their cumulative sums."""
    for width in _CANDIDATES:
        if width < weights.shape[-1]:
            ordered = weights.topk(width).values
            sums = ordered.cumsum(-1)
            if (sums[:, -1:] >= wanted).all():
                return ordered, sums
    ordered = _descending(weights)
    return ordered, ordered.cumsum(-1)


def _descending(weights: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Sort in descending order; NumPy is six times as fast on a CPU, as no indices are needed."""
    if weights.device.type != "cpu":
        return weights.sort(-1, descending=True).values
    return torch.from_numpy(np.sort(weights.numpy())[:, ::-1].copy())


def _inverse_cdf(weights: Float[Tensor, "B V"], uniform: Float[Tensor, "B 1"]) -> Int[Tensor, " B"]:
    sums = weights.cumsum(-1)
    choice = torch.searchsorted(sums, uniform * sums[:, -1:], right=True)
    # Parallel sums may be rounded out of order, and rounding may pass the last sum: never sample a dropped token.
    chosen = weights.gather(-1, choice.clamp_(max=weights.shape[-1] - 1))
    if not chosen.all():
        choice = torch.where(chosen > 0, choice, weights.argmax(-1, keepdim=True))
    return choice.squeeze(-1)
