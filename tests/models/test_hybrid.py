"""Tests of the layer pattern of the hybrid family."""

import pytest
from pydantic import ValidationError

from fabella.models.hybrid import Config
from fabella.models.hybrid_torch import CausalAttention, Model
from fabella.models.nn.recurrence_torch import MinGRU

TINY = {"vocab_size": 61, "context_length": 48, "dim": 24, "heads": 3, "ffn_dim": 40}


@pytest.mark.parametrize(
    ("pattern", "layers", "kinds"), [("mma", 6, "mmamma"), ("mma", 4, "mmam"), ("a", 2, "aa"), ("mma", 1, "m")]
)
def test_the_pattern_repeats_to_fill_the_layers(pattern: str, layers: int, kinds: str) -> None:
    model = Model(Config(**TINY, layer_pattern=pattern, layers=layers))
    assert [type(block.mixer) for block in model.blocks] == [
        {"m": MinGRU, "a": CausalAttention}[kind] for kind in kinds
    ]


def test_only_attention_limits_the_context() -> None:
    assert Config(**TINY, layer_pattern="m", layers=2).unlimited_context
    assert Config(**TINY, layer_pattern="mma", layers=2).unlimited_context
    assert not Config(**TINY, layer_pattern="mma", layers=3).unlimited_context


@pytest.mark.parametrize("pattern", ["", "x", "m a", "m" * 513])
def test_unknown_layer_types_are_errors(pattern: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Config(**TINY, layer_pattern=pattern, layers=2)
