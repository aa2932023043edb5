"""Token sampling by inverse CDF inside the compiled decode loop; the same results as sampling_torch.py."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from fabella.generation.sampling import MIN_TEMPERATURE, SamplingParams, require_vocab_biases

CANDIDATES = 256
"""Most likely tokens in which top-k and top-p are searched before the whole vocabulary is sorted."""


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """Steps of sampling that are compiled; static, unlike the values of the parameters."""

    greedy: bool
    filtered: bool
    """True if top-k, top-p or min-p are enabled."""
    penalized: bool
    """True if the repetition penalty is enabled."""
    adjusted: bool
    """True if frequency and presence penalties or logit biases are added to the logits."""

    @classmethod
    def of(cls, sampling: SamplingParams) -> "SamplingSpec":
        """Return the spec of the sampling parameters."""
        return cls(
            greedy=sampling.temperature == 0.0,
            filtered=sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0,
            penalized=sampling.repetition_penalty != 1.0,
            adjusted=sampling.adjusts_logits,
        )


class SamplingArrays(NamedTuple):
    """Values of ``SamplingParams`` as arrays, each of shape [], except ``logit_bias``."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition_penalty: Array
    frequency_penalty: Array
    presence_penalty: Array
    logit_bias: Array
    """Added to the logits, [V]; [0] unless logits are adjusted."""

    @classmethod
    def of(cls, sampling: SamplingParams, vocab_size: int) -> "SamplingArrays":
        """Return the arrays of the parameters. Raises UsageError for a bias of an id outside the vocabulary."""
        require_vocab_biases(sampling, vocab_size)
        bias = np.zeros(vocab_size if sampling.adjusts_logits else 0, np.float32)
        for token, value in sampling.logit_bias:
            bias[token] = value
        return cls(
            jnp.float32(max(sampling.temperature, MIN_TEMPERATURE)),
            jnp.int32(sampling.top_k),
            jnp.float32(sampling.top_p),
            jnp.float32(sampling.min_p),
            jnp.float32(sampling.repetition_penalty),
            jnp.float32(sampling.frequency_penalty),
            jnp.float32(sampling.presence_penalty),
            jnp.asarray(bias),
        )


def sample(
    logits: Float[Array, "B V"],
    spec: SamplingSpec,
    params: SamplingArrays,
    uniform: Float[Array, " B"],
    seen: Bool[Array, "B V"],
    counts: Int[Array, "B V"],
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Return the next token id and the largest logit of every row; the id is undefined if that logit is not finite.

    ``uniform`` is in [0, 1); ``seen`` masks the ids of the repetition penalty; ``counts`` are how often the completion
    contains each id, and may be of any shape unless logits are adjusted.
    """
    if spec.penalized:
        penalty = params.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    if spec.adjusted:
        penalties = counts * params.frequency_penalty + (counts > 0) * params.presence_penalty
        logits = logits + (params.logit_bias - penalties)
    top = logits.max(-1, keepdims=True)
    if spec.greedy:
        return logits.argmax(-1).astype(jnp.int32), top[:, 0]
    weights = jnp.exp((logits - top) / params.temperature)
    if spec.filtered:
        weights = _filter(weights, params)
    sums = jnp.cumsum(weights, -1)
    choice = (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)
    # Parallel sums may be rounded out of order, and rounding may pass the last sum: never sample a dropped token.
    choice = jnp.minimum(choice, weights.shape[-1] - 1)
    possible = jnp.take_along_axis(weights, choice[:, None], -1)[:, 0] > 0
    return jnp.where(possible, choice, weights.argmax(-1)).astype(jnp.int32), top[:, 0]


def _filter(weights: Float[Array, "B V"], params: SamplingArrays) -> Float[Array, "B V"]:
    """Zero the tokens that top-k, top-p and min-p drop. The most likely token has weight 1."""
    vocab_size = weights.shape[-1]
    width = min(CANDIDATES, vocab_size)
    candidates = lax.top_k(weights, width)[0]
    if width == vocab_size:
        least = _least_kept(candidates, weights, params)
    else:
        enough = (candidates.sum(-1) >= params.top_p * weights.sum(-1)).all()
        enough |= (params.top_p >= 1.0) | (params.top_k > 0)
        enough &= params.top_k <= width
        least = lax.cond(
            enough,
            lambda: _least_kept(candidates, weights, params),
            lambda: _least_kept(jnp.sort(weights, -1, descending=True), weights, params),
        )
    return jnp.where(weights >= jnp.maximum(least, params.min_p), weights, 0.0)


def _least_kept(
    ordered: Float[Array, "B N"], weights: Float[Array, "B V"], params: SamplingArrays
) -> Float[Array, "B 1"]:
    """Return the weight of the last token that top-k and then top-p keep.

    ``ordered`` has the largest weights in descending order, at least those that are kept.
    """
    last_index = jnp.minimum(params.top_k, ordered.shape[-1]) - 1
    kth = jnp.where(params.top_k > 0, lax.dynamic_slice_in_dim(ordered, jnp.maximum(last_index, 0), 1, 1), 0.0)
    wanted = jnp.where(weights >= kth, weights, 0.0).sum(-1, keepdims=True) * params.top_p
    sums = jnp.cumsum(jnp.where(ordered >= kth, ordered, 0.0), -1)
    last = jnp.minimum((sums < wanted).sum(-1, keepdims=True), ordered.shape[-1] - 1)
    nucleus = jnp.where(params.top_p < 1.0, jnp.take_along_axis(ordered, last, -1), 0.0)
    return jnp.maximum(kth, nucleus)


def count_ids(counts: Int[Array, "B V"], ids: Int[Array, " B"]) -> Int[Array, "B V"]:
    """Return ``counts`` with one more of an id in each row."""
    return counts + jax.nn.one_hot(ids, counts.shape[-1], dtype=counts.dtype)


def mark_seen(seen: Bool[Array, "B V"], ids: Int[Array, " B"]) -> Bool[Array, "B V"]:
    """Return ``seen`` with one more id in each row."""
    return seen | jax.nn.one_hot(ids, seen.shape[-1], dtype=jnp.bool_)
