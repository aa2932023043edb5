"""Tests that the compiled JAX decode loop generates the same token ids as PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fabella.engine import build_model_jax, build_model_torch
from fabella.errors import NumericsError, TokenizerError, UsageError
from fabella.generation import generate_jax, generate_torch
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module
from fabella.run_config.files import preset
from tests.models.nn.test_layers_jax import different_presets, reduced

# Different lengths; two are equal, and one is longer than the context length.
PROMPTS = ([1, 2, 3], [4], list(range(20)), [1, 2, 3])
CONTEXT, TOKENS, VOCAB_SIZE = 18, 45, 55


def decode(
    module: Any, model: Any, sampling: SamplingParams, prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[list[int]]:
    """Return the ids of every step."""
    ids = [np.array(prompt, dtype=np.int32) for prompt in prompts]
    rows = [number % 2 for number in range(len(ids))]
    steps = module.generate(
        model, ids, sampling, rows=rows, max_tokens=TOKENS, vocab_size=VOCAB_SIZE, num_prefix_tokens=1
    )
    return list(steps)


def in_both_engines(config: ModelConfig) -> tuple[Any, Any]:
    """Return an untrained model in both engines; larger weights make the logits differ more."""
    config = config.model_copy(update={"context_length": CONTEXT, "layers": min(config.layers, 2)})
    weights = initial_weights(config.parameters(), seed=5)
    scale = 3 * 0.08 / getattr(config, "init_std", 0.08)
    scaled = {name: array * scale if array.ndim == 2 else array for name, array in weights.items()}
    return build_model_torch.load_model(config, scaled, "cpu"), build_model_jax.load_model(config, scaled, "cpu")


def tiny(family: str) -> ModelConfig:
    return family_module(family).Config.tiny().model_copy(update={"layers": 1})


@pytest.mark.parametrize("name", different_presets())
def test_greedy_decoding_equals_pytorch_for_every_preset(name: str) -> None:
    """The completions are longer than the context, so that each sequence shifts it at another step."""
    torch_model, jax_model = in_both_engines(reduced(preset(name).model))
    greedy = SamplingParams(temperature=0.0)
    ids = decode(generate_jax, jax_model, greedy)
    assert ids == decode(generate_torch, torch_model, greedy)
    assert len({token for step in ids for token in step}) > 3


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=0.7, top_k=5, top_p=0.8, repetition_penalty=1.3, seed=4),
        SamplingParams(frequency_penalty=0.5, presence_penalty=-0.5, logit_bias=((2, 3.0), (54, -100.0)), seed=5),
        SamplingParams(temperature=0.0, frequency_penalty=1.0),
    ],
    ids=["default", "all filters", "penalties and biases", "greedy with a penalty"],
)
def test_sampling_equals_pytorch_with_the_same_seed(sampling: SamplingParams) -> None:
    torch_model, jax_model = in_both_engines(tiny("llama"))
    assert decode(generate_jax, jax_model, sampling) == decode(generate_torch, torch_model, sampling)


def test_a_bias_of_an_id_outside_the_vocabulary_is_refused() -> None:
    _, model = in_both_engines(tiny("gpt2"))
    with pytest.raises(UsageError, match="logit_bias has the token id 55, but the vocabulary has 55 ids"):
        decode(generate_jax, model, SamplingParams(logit_bias=((55, 1.0),)))


def test_a_sequence_does_not_depend_on_the_others_in_its_batch() -> None:
    _, model = in_both_engines(tiny("hybrid"))
    hot = SamplingParams(temperature=1.0, seed=1)
    batched = [list(column) for column in zip(*decode(generate_jax, model, hot), strict=True)]
    single = [column for (column,) in decode(generate_jax, model, hot, [PROMPTS[2]])]
    assert batched[2] == single


def test_logits_that_are_not_finite_are_an_error() -> None:
    _, model = in_both_engines(tiny("gpt2"))
    weights = {name: np.array(array) for name, array in model.weights.items()}
    weights["norm.weight"][0] = np.nan
    broken = build_model_jax.load_model(model.config, weights, "cpu")
    with pytest.raises(NumericsError, match="Cannot sample from the logits of row 0: their maximum is nan"):
        decode(generate_jax, broken, SamplingParams())


def test_a_prompt_with_ids_outside_the_vocabulary_is_refused() -> None:
    _, model = in_both_engines(tiny("gpt2"))
    with pytest.raises(TokenizerError, match="Token id 61 of the prompt is outside the model's vocabulary of 61 ids"):
        decode(generate_jax, model, SamplingParams(), [[61]])
