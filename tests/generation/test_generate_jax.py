"""A text told by the compiled loop is the text that PyTorch tells, id by id."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fabella.engine import engine_jax, engine_torch
from fabella.errors import NumericsError, TokenizerError
from fabella.generation import generate_jax, generate_torch
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module
from fabella.run_config.files import preset
from tests.models.nn.test_layers_jax import different_presets, reduced

# Of several lengths, two the same, one longer than the context below.
PROMPTS = ([1, 2, 3], [4], list(range(20)), [1, 2, 3])
CONTEXT, TOKENS, VOCABULARY = 18, 45, 55


def told(
    module: Any, model: Any, sampling: SamplingParams, prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[list[int]]:
    """The ids of every step."""
    ids = [np.array(prompt, dtype=np.int32) for prompt in prompts]
    rows = [number % 2 for number in range(len(ids))]
    steps = module.generate(
        model, ids, sampling, rows=rows, max_tokens=TOKENS, vocab_size=VOCABULARY, num_prefix_tokens=1
    )
    return list(steps)


def both(config: ModelConfig) -> tuple[Any, Any]:
    """An untrained model in both engines, its weights made larger so that its choices are no guess."""
    config = config.model_copy(update={"context_length": CONTEXT, "layers": min(config.layers, 2)})
    weights = initial_weights(config.parameters(), seed=5)
    scale = 3 * 0.08 / getattr(config, "init_std", 0.08)
    louder = {name: array * scale if array.ndim == 2 else array for name, array in weights.items()}
    return engine_torch.load_model(config, louder, "cpu"), engine_jax.load_model(config, louder, "cpu")


def tiny(family: str) -> ModelConfig:
    return family_module(family).Config.tiny().model_copy(update={"layers": 1})


@pytest.mark.parametrize("name", different_presets())
def test_the_most_likely_text_is_pytorchs_id_by_id(name: str) -> None:
    """Far beyond the context, so that windows are read anew, at another step for each prompt."""
    torch_model, jax_model = both(reduced(preset(name).model))
    greedy = SamplingParams(temperature=0.0)
    ids = told(generate_jax, jax_model, greedy)
    assert ids == told(generate_torch, torch_model, greedy)
    assert len({one for step in ids for one in step}) > 3


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=0.7, top_k=5, top_p=0.8, repetition_penalty=1.3, seed=4),
    ],
    ids=["usual", "every cut"],
)
def test_a_drawn_text_is_pytorchs_with_the_same_seed(sampling: SamplingParams) -> None:
    torch_model, jax_model = both(tiny("llama"))
    assert told(generate_jax, jax_model, sampling) == told(generate_torch, torch_model, sampling)


def test_a_text_does_not_know_its_neighbours() -> None:
    _, model = both(tiny("hybrid"))
    hot = SamplingParams(temperature=1.0, seed=1)
    together = [list(column) for column in zip(*told(generate_jax, model, hot), strict=True)]
    alone = [column for (column,) in told(generate_jax, model, hot, [PROMPTS[2]])]
    assert together[2] == alone


def test_logits_that_are_not_finite_end_the_text_in_words() -> None:
    _, model = both(tiny("gpt2"))
    weights = {name: np.array(array) for name, array in model.weights.items()}
    weights["norm.weight"][0] = np.nan
    broken = engine_jax.load_model(model.config, weights, "cpu")
    with pytest.raises(NumericsError, match="Cannot sample from the logits of row 0: their maximum is nan"):
        told(generate_jax, broken, SamplingParams())


def test_a_prompt_with_ids_that_the_model_does_not_know_is_refused() -> None:
    _, model = both(tiny("gpt2"))
    with pytest.raises(TokenizerError, match="Token id 61 of the prompt is outside the model's vocabulary of 61 ids"):
        told(generate_jax, model, SamplingParams(), [[61]])
