"""Tests that the loss in chunks equals the loss in one piece: values, gradients, padding and precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fabella.models import IGNORE
from fabella.models.nn import loss_torch
from fabella.models.nn.loss_torch import linear_cross_entropy, linear_losses

# float64 against float64; the order of summation differs.
EXACT = 1e-12
# float32 against float64.
SINGLE = 1e-5


def random_inputs(
    rows: int, dim: int, vocab_size: int, *, ignored: float = 0.3, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=random, dtype=torch.float64)
    weight = torch.randn(vocab_size, dim, generator=random, dtype=torch.float64)
    targets = torch.randint(vocab_size, (rows,), generator=random)
    targets[torch.rand(rows, generator=random) < ignored] = IGNORE
    return hidden, weight, targets


def unchunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="sum") / max(
        1, int((targets != IGNORE).sum())
    )


@settings(max_examples=100)
@given(
    rows=st.integers(1, 40),
    dim=st.integers(1, 9),
    vocab_size=st.integers(1, 30),
    chunk=st.integers(1, 50),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_chunks_do_not_change_loss_or_gradients(
    rows: int, dim: int, vocab_size: int, chunk: int, ignored: float, seed: int
) -> None:
    hidden, weight, targets = random_inputs(rows, dim, vocab_size, ignored=ignored, seed=seed)
    inputs, expected_inputs = [(hidden.clone().requires_grad_(), weight.clone().requires_grad_()) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_torch, "ROWS", chunk)
        patch.setattr(loss_torch, "LOGITS_ON_CPU", 1)
        loss = linear_cross_entropy(*inputs, targets)
        losses = linear_losses(hidden, weight, targets)
    expected = unchunked(*expected_inputs, targets)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected, atol=EXACT, rtol=0)
    for actual, other in zip(inputs, expected_inputs, strict=True):
        torch.testing.assert_close(actual.grad, other.grad, atol=EXACT, rtol=0)
    separate = functional.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(losses, separate, atol=EXACT, rtol=0)


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, targets = random_inputs(20, 4, 11)
    with torch.no_grad():
        without_gradients = linear_cross_entropy(hidden, weight, targets)
    assert not without_gradients.requires_grad
    torch.testing.assert_close(
        without_gradients, linear_cross_entropy(hidden.requires_grad_(), weight, targets), atol=EXACT, rtol=0
    )


def test_targets_that_are_all_ignored_have_no_loss() -> None:
    hidden, weight, targets = random_inputs(6, 4, 11, ignored=1.0)
    hidden.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert (hidden.grad == 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_large_logits_neither_overflow_nor_lose_the_loss(scale: float) -> None:
    hidden, weight, targets = random_inputs(50, 16, 200)
    exact = unchunked(hidden * scale, weight, targets)
    rough = linear_cross_entropy((hidden * scale).float().requires_grad_(), weight.float(), targets)
    torch.testing.assert_close(rough.double(), exact, atol=SINGLE * scale, rtol=SINGLE)


def test_a_loss_scale_scales_gradients_before_rounding_to_half_precision() -> None:
    """Gradients of a mean over many targets are below 6e-8, which fp16 rounds to 0 unless they are scaled before."""
    hidden, weight, targets = random_inputs(4096, 8, 64, ignored=0.0)
    scale, rows = 2.0**16, hidden.to(torch.float16).requires_grad_()
    (linear_cross_entropy(rows, weight.to(torch.float16), targets) * scale).backward()
    exact = hidden.clone().requires_grad_()
    unchunked(exact, weight, targets).backward()
    assert rows.grad is not None
    assert exact.grad is not None
    error = (rows.grad.double() / scale - exact.grad).norm() / exact.grad.norm()
    assert error < 0.01  # fp16 keeps 11 bits


def test_autocast_computes_in_half_precision_and_keeps_the_dtype_of_the_weight_gradient() -> None:
    hidden, weight, targets = (x.float() if x.is_floating_point() else x for x in random_inputs(64, 16, 50))
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert [x.grad.dtype for x in (hidden, weight) if x.grad is not None] == [torch.float32, torch.float32]
    torch.testing.assert_close(loss, unchunked(hidden, weight, targets), atol=0.05, rtol=0.02)  # bf16 keeps 8 bits


def test_the_initial_loss_is_that_of_uniform_logits() -> None:
    loss = linear_cross_entropy(torch.zeros(2, 3, 4), torch.randn(50, 4), torch.ones(2, 3, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(50))
