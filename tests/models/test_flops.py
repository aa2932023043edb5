"""Tests that FLOPs computed from the parameter table equal those that PyTorch counts."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fabella.models.flops import flops_per_token, forward_flops, output_head_params
from fabella.run_config.files import preset
from tests.models.conftest import Family

BATCH, TIME = 2, 16


def counted_by_pytorch(family: Family) -> int:
    """Return the FLOPs that PyTorch counts in a forward pass; it counts attention as if it had no mask."""
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # PyTorch does not count the fused kernel
        model(tokens)
    return counter.get_total_flops()


def test_forward_flops_equal_those_counted_by_pytorch(family: Family) -> None:
    flops = forward_flops(family.config, TIME)
    unmasked = flops.attention * 2 * TIME // (TIME + 1)
    heads = len(output_head_params(family.config.parameters(), family.config.vocab_size))
    expected = flops.blocks + flops.head // heads + unmasked  # the logits come from one head
    assert counted_by_pytorch(family) == expected * BATCH * TIME


def test_a_training_step_is_three_forward_passes(family: Family) -> None:
    assert flops_per_token(family.config, TIME) == 3 * forward_flops(family.config, TIME).forward


@pytest.mark.parametrize(
    ("name", "weights", "queries"),
    [
        # blocks without biases and norms + the head; layers × dim
        ("tinystories-8m", 8 * 12 * 256**2 + 50_257 * 256, 8 * 256),
        ("piny-37m", 24_772_608 + 16_384 * 768, 4 * 768),
        ("minigpt-100m", 12 * (4 * 768**2 + 3 * 768 * 2304) + 2 * 384 * 768 + 32_768 * 384, 12 * 768),
        ("mingru-17m", 6 * (2 * 512**2 + 2 * 512 * 2048) + 6 * 256 * 512, 0),
    ],
)
def test_published_models_take_six_flops_per_weight_and_token(name: str, weights: int, queries: int) -> None:
    assert flops_per_token(preset(name).model, 256) == 6 * weights + 6 * queries * 257


def test_a_tied_embedding_counts_as_the_head_and_a_lookup_does_not() -> None:
    tied = preset("storybook-1m").model
    untied = tied.model_copy(update={"tie_embeddings": False})
    assert flops_per_token(tied, 64) == flops_per_token(untied, 64)
