"""Tests of what only the modern family has: its switches, its initialization, and its layers' own formulas."""

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from fabella.models.modern import Config, Feature
from fabella.models.modern_torch import Attention, GatedMinGRU
from tests.models.conftest import Family

TINY = Config.tiny()
TOKENS = torch.arange(40).view(2, 20) % TINY.vocab_size


def changed(**values: Any) -> Config:
    return Config.model_validate(TINY.model_dump() | values)


def without(feature: str) -> dict[str, Any]:
    return {"features": tuple(other for other in TINY.features if other != feature)}


def model_of(config: Config) -> Any:
    return Family("modern", config).model()


@pytest.mark.parametrize(
    "switch",
    [
        without("qk_norm"),
        without("attention_gate"),
        without("value_residual"),
        without("embedding_residual"),
        {"convolution": 0},
        {"layer_pattern": "a"},
        {"layer_pattern": "m"},
    ],
    ids=str,
)
def test_every_switch_changes_the_logits_and_keeps_the_decoding_law(switch: dict[str, Any]) -> None:
    config = changed(**switch)
    model = model_of(config)
    logits = model(TOKENS)
    assert not torch.allclose(logits, model_of(TINY)(TOKENS), atol=1e-4)
    state, decoded = model.init_state(2, 20), []
    for part in TOKENS.split([7, 1, 1, 11], dim=1):
        last, state = model.decode(part, state)
        decoded.append(last)
    torch.testing.assert_close(torch.stack(decoded, 1), logits[:, [6, 7, 8, 19]], atol=1e-4, rtol=1e-4)


def test_blocks_start_as_the_identity() -> None:
    """Outputs that start at zero leave the embedding, scaled by 1.1 per block, which the final norm removes."""
    model = model_of(changed(features=get_args(Feature)))
    expected = model.norm(model.embedding_norm(model.embedding(TOKENS)))
    torch.testing.assert_close(model.hidden_states(TOKENS), expected)


def test_the_first_attention_layer_gives_its_values_to_later_ones() -> None:
    table = changed(layer_pattern="maa", layers=6).parameters()
    mixed = [name for name in table if name.endswith("value_weights")]
    assert mixed == [f"blocks.{layer}.mixer.value_weights" for layer in (2, 4, 5)]


def test_the_gates_of_a_mingru_start_with_the_half_lives_of_the_docstring() -> None:
    bias = model_of(TINY).blocks[1].mixer.gate.bias
    half_lives = 0.5**0.5, 0.5 ** (1 / 512)
    torch.testing.assert_close(bias[[0, -1]].neg().sigmoid(), torch.tensor(half_lives))
    assert (bias.diff() < 0).all()


def test_the_mixers_follow_the_pattern() -> None:
    kinds = [type(block.mixer) for block in model_of(changed(layer_pattern="mma", layers=4)).blocks]
    assert kinds == [GatedMinGRU, GatedMinGRU, Attention, GatedMinGRU]


@pytest.mark.parametrize("values", [{"layer_pattern": "x"}, {"heads": 5}, {"kv_heads": 4}, {"state_expansion": 0.01}])
def test_sizes_that_do_not_fit_are_errors(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**values)
