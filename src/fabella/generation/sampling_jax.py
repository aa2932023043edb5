"""Choosing the next ids by inverse CDF, within a compiled loop: the same rule as in sampling_torch.py."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from fabella.generation.sampling import MIN_TEMPERATURE, SamplingParams

CANDIDATES = 256
"""The nucleus of a trained model is small: it is looked for among these before the vocabulary is sorted."""


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """What of the rule is compiled at all; the numbers themselves are not."""

    greedy: bool
    cut: bool
    penalized: bool

    @classmethod
    def of(cls, sampling: SamplingParams) -> "SamplingSpec":
        """For these settings."""
        return cls(
            greedy=sampling.temperature == 0.0,
            cut=sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0,
            penalized=sampling.repetition_penalty != 1.0,
        )


class SamplingArrays(NamedTuple):
    """The numbers of a ``Sampling``, each []."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition_penalty: Array

    @classmethod
    def of(cls, sampling: SamplingParams) -> "SamplingArrays":
        """On the device."""
        return cls(
            jnp.float32(max(sampling.temperature, MIN_TEMPERATURE)),
            jnp.int32(sampling.top_k),
            jnp.float32(sampling.top_p),
            jnp.float32(sampling.min_p),
            jnp.float32(sampling.repetition_penalty),
        )


def sample(
    logits: Float[Array, "B V"],
    kind: SamplingSpec,
    given: SamplingArrays,
    uniform: Float[Array, "B"],
    seen: Bool[Array, "B V"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next id of every row, and the row's largest logit: where that is not finite, the id means nothing."""
    if kind.penalized:
        penalty = given.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    top = logits.max(-1, keepdims=True)
    if kind.greedy:
        return logits.argmax(-1).astype(jnp.int32), top[:, 0]
    weights = jnp.exp((logits - top) / given.temperature)
    if kind.cut:
        weights = _filter(weights, given)
    sums = jnp.cumsum(weights, -1)
    choice = (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)
    # Sums in parallel may be rounded out of order, and beyond the last lies nothing: never choose what was cut.
    choice = jnp.minimum(choice, weights.shape[-1] - 1)
    kept = jnp.take_along_axis(weights, choice[:, None], -1)[:, 0] > 0
    return jnp.where(kept, choice, weights.argmax(-1)).astype(jnp.int32), top[:, 0]


def _filter(weights: Float[Array, "B V"], given: SamplingArrays) -> Float[Array, "B V"]:
    """Zero what top-k, top-p and min-p leave out. ``weights`` are relative to the most likely id, whose weight is 1."""
    vocab_size = weights.shape[-1]
    width = min(CANDIDATES, vocab_size)
    few = lax.top_k(weights, width)[0]
    if width == vocab_size:
        least = _least(few, weights, given)
    else:
        enough = (few.sum(-1) >= given.top_p * weights.sum(-1)).all() | ((given.top_p >= 1.0) | (given.top_k > 0))
        enough &= given.top_k <= width
        least = lax.cond(
            enough,
            lambda: _least(few, weights, given),
            lambda: _least(jnp.sort(weights, -1, descending=True), weights, given),
        )
    return jnp.where(weights >= jnp.maximum(least, given.min_p), weights, 0.0)


def _least(ordered: Float[Array, "B N"], weights: Float[Array, "B V"], given: SamplingArrays) -> Float[Array, "B 1"]:
    """Weight of the last id that top-k and then top-p keep; ``ordered`` holds at least those, the largest first."""
    place = jnp.minimum(given.top_k, ordered.shape[-1]) - 1
    kth = jnp.where(given.top_k > 0, lax.dynamic_slice_in_dim(ordered, jnp.maximum(place, 0), 1, 1), 0.0)
    wanted = jnp.where(weights >= kth, weights, 0.0).sum(-1, keepdims=True) * given.top_p
    sums = jnp.cumsum(jnp.where(ordered >= kth, ordered, 0.0), -1)
    last = jnp.minimum((sums < wanted).sum(-1, keepdims=True), ordered.shape[-1] - 1)
    nucleus = jnp.where(given.top_p < 1.0, jnp.take_along_axis(ordered, last, -1), 0.0)
    return jnp.maximum(kth, nucleus)


def marked(seen: Bool[Array, "B V"], ids: Int[Array, "B"]) -> Bool[Array, "B V"]:
    """``seen`` with one more id in each row."""
    return seen | jax.nn.one_hot(ids, seen.shape[-1], dtype=jnp.bool_)
