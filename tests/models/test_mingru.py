"""Tests of MinGRU: the published count, the loss over all heads, sequences beyond the context, and errors."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fabella.models.mingru import Config
from fabella.models.mingru_torch import Model
from fabella.models.nn.loss_torch import linear_cross_entropy
from fabella.models.parameters import count, count_non_embedding
from fabella.run_config.files import preset

TINY = {"vocab_size": 61, "context_length": 48, "dim": 24, "layers": 3, "ffn_dim": 40}
LOSS_TOLERANCE = 1e-6


def test_published_count() -> None:
    table = preset("mingru-17m").model.parameters()
    assert (count(table), count_non_embedding(table)) == (17_323_008, 15_750_144)


def test_the_loss_is_the_mean_of_all_heads_and_logits_are_those_of_the_last() -> None:
    model = Model(Config(**TINY))
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))
    heads = [
        linear_cross_entropy(stream, block.head.weight, tokens)
        for stream, block in zip(model.hidden_states(tokens), model.stack, strict=True)
    ]
    torch.testing.assert_close(model.loss(tokens, tokens), sum(heads) / 3, atol=LOSS_TOLERANCE, rtol=0)
    torch.testing.assert_close(model.token_losses(tokens, tokens).mean(), heads[-1], atol=LOSS_TOLERANCE, rtol=0)


def test_an_expanded_state_is_projected_back() -> None:
    assert "blocks.0.mixer.output.weight" not in Config(**TINY).parameters()
    table = Config(**TINY, expansion=1.5).parameters()
    assert table["blocks.0.mixer.gate.weight"].shape == (36, 24)
    assert table["blocks.0.mixer.output.weight"].shape == (24, 36)


def test_a_sequence_may_be_longer_than_the_context() -> None:
    config = Config(**TINY)
    assert config.unlimited_context
    tokens = torch.randint(61, (1, 20 * config.context_length), generator=torch.Generator().manual_seed(1))
    model = Model(config)
    logits, state = model.decode(tokens, model.init_state(1, capacity=1))
    assert logits.isfinite().all()
    assert [tuple(hidden.shape) for hidden in state] == [(1, 24)] * 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"expansion": 1.1}, "dim \\* expansion = 26.4 is not a whole number; try expansion = 1.0"),
        ({"expansion": 1e-6}, "is not a whole number"),
        ({"expansion": 1e9}, "less than or equal to 8"),
    ],
)
def test_invalid_sizes_are_errors(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config(**{**TINY, **change})
