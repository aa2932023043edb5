"""Tests that both engines sample the same token ids."""

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp

from fabella.generation import sampling_torch
from fabella.generation.sampling import SamplingParams, uniforms
from fabella.generation.sampling_jax import CANDIDATES, SamplingArrays, SamplingSpec, mark_seen, sample

ROWS = 40
NO_COUNTS = jnp.zeros((1, 0), jnp.int32)


@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["even", "peaked"])
@pytest.mark.parametrize("vocab_size", [50, CANDIDATES * 3])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.3, top_p=1.0),
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=7, top_p=0.5),
        SamplingParams(top_k=CANDIDATES + 9, top_p=1.0),
        SamplingParams(top_p=1.0, min_p=0.2, repetition_penalty=1.5),
        SamplingParams(temperature=0.01),
        SamplingParams(frequency_penalty=0.5, presence_penalty=-1.25, logit_bias=((3, 5.0), (9, -100.0))),
    ],
    ids=str,
)
def test_both_engines_sample_the_same_ids(sampling: SamplingParams, vocab_size: int, spread: float) -> None:
    random = np.random.default_rng(2)
    logits = (random.standard_normal((ROWS, vocab_size)) * spread).astype(np.float32)
    seen, uniform = random.random(logits.shape) < 0.3, uniforms(5, 0, ROWS)
    counts, bias = random.integers(0, 4, logits.shape), np.zeros(vocab_size)
    for token, value in sampling.logit_bias:
        bias[token] = value
    jax_ids, tops = sample(
        jnp.asarray(logits), *arguments(sampling, vocab_size), jnp.asarray(uniform), seen, jnp.asarray(counts)
    )
    added = bias - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty
    torch_ids = sampling_torch.sample(
        torch.from_numpy(logits), sampling, torch.from_numpy(uniform), torch.from_numpy(seen),
        torch.from_numpy(added.astype(np.float32)) if sampling.adjusts_logits else None,
    )  # fmt: skip
    np.testing.assert_array_equal(jax_ids, torch_ids.numpy())
    assert np.isfinite(tops).all()


def test_top_k_keeps_ids_as_likely_as_the_last_one_and_greedy_takes_the_lowest_of_equals() -> None:
    def sampled(sampling: SamplingParams, uniform: float) -> int:
        logits = jnp.zeros((1, 10))
        return int(sample(logits, *arguments(sampling), jnp.array([uniform]), logits > 0, NO_COUNTS)[0][0])

    assert sampled(SamplingParams(temperature=0.0), 0.9) == 0
    assert sampled(SamplingParams(top_k=1, temperature=1.0), 0.95) == 9


def test_the_largest_logit_is_not_finite_for_logits_that_cannot_be_sampled() -> None:
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        logits = jnp.full((1, 4), value)
        tops = sample(logits, *arguments(SamplingParams()), jnp.array([0.5]), logits > 0, NO_COUNTS)[1]
        assert not np.isfinite(tops[0])


def test_mark_seen_adds_the_sampled_ids() -> None:
    seen = mark_seen(jnp.zeros((2, 4), bool), jnp.array([1, 3]))
    assert np.array_equal(seen, [[0, 1, 0, 0], [0, 0, 0, 1]])
    assert isinstance(seen, jax.Array)


def arguments(sampling: SamplingParams, vocab_size: int = 10) -> tuple[SamplingSpec, SamplingArrays]:
    return SamplingSpec.of(sampling), SamplingArrays.of(sampling, vocab_size)
