"""Tests of MiniGPT: the published count, the partial rotary embedding, initialization and errors."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fabella.models.minigpt import Config
from fabella.models.nn.rotary_torch import apply_rotary_interleaved, rotary_table
from fabella.models.parameters import Normal, count, count_non_embedding
from fabella.run_config.files import preset

# Rotations in float32.
TOLERANCE = 1e-5

TINY = {"vocab_size": 61, "context_length": 48, "embedding": 16, "dim": 24, "layers": 2, "heads": 2, "ffn_dim": 40}


def test_published_count() -> None:
    table = preset("minigpt-100m").model.parameters()
    assert (count(table), count_non_embedding(table)) == (105_204_480, 92_621_568)


def test_the_first_half_of_each_head_is_rotated_in_neighboring_pairs() -> None:
    config = preset("minigpt-100m").model
    assert isinstance(config, Config)
    assert config.rotary_dims == 32  # of 64
    x = torch.randn(1, 2, 50, 64, generator=torch.Generator().manual_seed(1))
    rotated = apply_rotary_interleaved(x, rotary_table(config.rotary_dims, config.rotary_base, 50, x.device))
    assert torch.equal(rotated[..., 32:], x[..., 32:])
    # A pair as one complex number: a rotation multiplies it by e^(i · position · base^(−2p/32)).
    pairs = torch.view_as_complex(x[..., :32].unflatten(3, (16, 2)).contiguous())
    frequencies = 10_000.0 ** (-torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    factors = torch.polar(
        torch.ones(50, 16, dtype=torch.float64), torch.outer(torch.arange(50.0, dtype=torch.float64), frequencies)
    )
    expected = torch.view_as_real(pairs.to(torch.complex128) * factors).flatten(3).float()
    torch.testing.assert_close(rotated[..., :32], expected, atol=TOLERANCE, rtol=0)


def test_scores_depend_only_on_the_distance_of_two_positions() -> None:
    """The dot product of a query at s and a key at t is the same for all s and t with the same s − t."""
    config = Config(**TINY, rotary_fraction=1.0)
    query, key = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    rotary = rotary_table(config.rotary_dims, config.rotary_base, 40, query.device)
    queries, keys = (apply_rotary_interleaved(x.expand(1, 1, 40, 12), rotary)[0, 0] for x in (query, key))
    scores = queries @ keys.T
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=TOLERANCE, rtol=0)


def test_weights_that_write_to_the_residual_stream_have_a_small_initialization() -> None:
    table = preset("minigpt-100m").model.parameters()
    spread = {
        name: p.init.std * fan_in**0.5
        for name, p in table.items()
        if isinstance(p.init, Normal)
        for fan_in in p.shape[1:]
    }
    small = {name for name, value in spread.items() if value == pytest.approx(0.1)}
    assert small == {name for name in spread if name.endswith((".output.weight", ".down.weight"))} | {
        "embedding.weight",
        "output_projection.weight",
    }
    assert all(value == pytest.approx(1.0) for name, value in spread.items() if name not in small)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 5}, "dim = 24 is not a multiple of heads = 5; try heads = 4"),
        ({"rotary_fraction": 0.25}, "= 3 is not an even number; dims rotate in pairs; try rotary_fraction = 1.0"),
        ({"rotary_fraction": 1.5}, "less than or equal to 1"),
        ({"embedding": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_sizes_are_errors(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config(**{**TINY, **change})
