"""Tests that RMSNorm and SwiGLU match their formulas, and that CausalLM needs only hidden_states and head_weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fabella.models.nn.layers_torch import CausalLM, RMSNorm, SwiGLU, rms_norm

# float64 against float64; the order of summation differs.
EXACT = 1e-10


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    eps=st.sampled_from([1e-6, 1e-5, 0.1]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_rms_norm_matches_its_formula(shape: list[int], eps: float, scale: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = (scale * torch.randn(*shape, 7, generator=random, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(7, generator=random, dtype=torch.float64).requires_grad_()
    pull = torch.randn(*shape, 7, generator=random, dtype=torch.float64)
    actual, expected = rms_norm(x, weight, eps), functional.rms_norm(x, (7,), weight, eps)
    torch.testing.assert_close(actual, expected, atol=EXACT, rtol=EXACT)
    for gradient, other in zip(
        torch.autograd.grad(actual, (x, weight), pull), torch.autograd.grad(expected, (x, weight), pull), strict=True
    ):
        torch.testing.assert_close(gradient, other, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e15])
def test_rms_norm_is_finite_for_zero_and_huge_inputs(size: float) -> None:
    x = (size * torch.ones(2, 8)).requires_grad_()
    y = RMSNorm(8)(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_rms_norm_in_half_precision_keeps_the_dtype_and_is_close() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    half = RMSNorm(8).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), RMSNorm(8)(x), atol=0.03, rtol=0.01)  # bf16 keeps 8 bits


def test_swiglu_matches_its_formula() -> None:
    layer = SwiGLU(4, 6)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    gate, up, down = layer.gate.weight, layer.up.weight, layer.down.weight
    expected = ((x @ gate.T) * torch.sigmoid(x @ gate.T) * (x @ up.T)) @ down.T
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)


class Echo(CausalLM):
    """A model whose hidden state is the token embedding, and whose state counts the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)

    @property
    def head_weight(self) -> torch.Tensor:
        return self.embedding.weight

    def hidden_states(self, tokens: torch.Tensor, state: list[int] | None = None) -> torch.Tensor:
        if state is not None:
            state[0] += tokens.shape[1]
        return self.embedding(tokens)


def test_causal_lm_builds_the_contract_from_hidden_states_and_head() -> None:
    model, tokens = Echo(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    logits = model(tokens)
    torch.testing.assert_close(logits, model.embedding(tokens) @ model.embedding.weight.T)
    last, state = model.decode(tokens, [0])
    torch.testing.assert_close(last, logits[:, -1])
    assert state == [3]
    torch.testing.assert_close(model.loss(tokens, tokens), model.token_losses(tokens, tokens).mean())
