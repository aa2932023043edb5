"""Tests that attention matches its formula, in one call, in chunks and with shared keys."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fabella.errors import UsageError
from fabella.models.nn.attention_torch import KVCache, attend, split_heads
from fabella.models.nn.capacity import require_capacity

TOLERANCE = 1e-6


def random_heads(heads: int, kv_heads: int, time: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, heads, time, 6, generator=random),
        torch.randn(2, kv_heads, time, 6, generator=random),
        torch.randn(2, kv_heads, time, 6, generator=random),
    )


def by_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(QKᵀ/√E + mask) V, one head at a time."""
    time, shared = query.shape[2], query.shape[1] // key.shape[1]
    mask = torch.full((time, time), -torch.inf).triu(1)
    heads = [
        torch.softmax(query[:, h] @ key[:, h // shared].mT / query.shape[3] ** 0.5 + mask, dim=-1)
        @ value[:, h // shared]
        for h in range(query.shape[1])
    ]
    return torch.cat(heads, dim=2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_attention_matches_its_formula(heads: int, kv_heads: int) -> None:
    query, key, value = random_heads(heads, kv_heads)
    torch.testing.assert_close(
        attend(query, key, value, None), by_definition(query, key, value), atol=TOLERANCE, rtol=TOLERANCE
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("cuts", [(0, 9), (0, 1, 2, 9), (0, 4, 8, 9), (0, 8, 9), tuple(range(10))])
def test_chunks_attend_to_all_earlier_tokens_and_no_later_ones(
    heads: int, kv_heads: int, cuts: tuple[int, ...]
) -> None:
    query, key, value = random_heads(heads, kv_heads)
    past = KVCache(2, kv_heads, 12, 6, query)
    parts = [attend(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], past) for a, b in pairwise(cuts)]
    torch.testing.assert_close(
        torch.cat(parts, dim=1), by_definition(query, key, value), atol=TOLERANCE, rtol=TOLERANCE
    )
    assert past.length == 9


def test_a_full_kv_cache_is_an_error_and_stays_unchanged() -> None:
    past = KVCache(1, 1, 3, 2, torch.zeros(()))
    ones = torch.ones(1, 1, 2, 2)
    past.append(ones, ones)
    with pytest.raises(UsageError) as caught:
        past.append(ones, ones)
    assert str(caught.value) == (
        "4 tokens are more than the capacity of 3. Read the last 3 tokens only, or start with a larger capacity."
    )
    assert past.length == 2
    past.append(ones[:, :, :1], ones[:, :, :1])


def test_the_context_limit_has_its_own_message() -> None:
    require_capacity(512, 512, "context")
    with pytest.raises(UsageError) as caught:
        require_capacity(513, 512, "context")
    assert str(caught.value) == "513 tokens are more than the context of 512. Read the last 512 tokens only."


def test_heads_are_contiguous_dimensions() -> None:
    x = torch.arange(12.0).view(1, 1, 12)
    assert split_heads(x, 3)[0, :, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
