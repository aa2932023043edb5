"""Tests that the fused head and loss equal float64: tails, chunks, ignored targets, extreme logits, threads."""

import ctypes

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fabella.models import IGNORE
from fabella.models.nn.kernels import fused_loss_torch
from fabella.models.nn.kernels.fused_loss_torch import fused_linear_cross_entropy
from fabella.models.nn.kernels.library import use_kernels
from fabella.models.nn.loss_torch import linear_cross_entropy

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def random_inputs(rows: int, dim: int, vocab_size: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, dim, generator=random) * scale
    weight = torch.randn(vocab_size, dim, generator=random)
    targets = torch.randint(vocab_size, (rows,), generator=random)
    return hidden, weight, targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [2, 15, 16, 63, 130, 1000])
@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize("ignored", [0, 5, 20])
def test_loss_and_gradients_equal_those_in_float64(
    library: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    vocab_size: int,
    chunk: int,
    ignored: int,
) -> None:
    monkeypatch.setattr(fused_loss_torch, "MIN_ROWS", dict.fromkeys(TOLERANCE, chunk))
    monkeypatch.setattr(fused_loss_torch, "LOGITS", 1)
    hidden, weight, targets = random_inputs(20, 12, vocab_size)
    targets[:ignored] = IGNORE
    exact = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    expected = functional.cross_entropy(exact[0] @ exact[1].T, targets, ignore_index=IGNORE, reduction="sum")
    (3 * expected).backward()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    loss = fused_linear_cross_entropy(library, *leaves, targets, dtype)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
    for actual, other in zip(leaves, exact, strict=True):
        assert actual.grad is not None
        assert other.grad is not None
        assert actual.grad.dtype == torch.float32
        assert (actual.grad - other.grad).norm() <= TOLERANCE[dtype] * other.grad.norm() + 1e-12


def test_extreme_logits_have_a_finite_loss(library: ctypes.CDLL) -> None:
    hidden, weight, targets = random_inputs(8, 4, 33, scale=1e4)
    loss = fused_linear_cross_entropy(library, hidden.requires_grad_(), weight, targets, torch.float32)
    loss.backward()
    expected = functional.cross_entropy(hidden.double() @ weight.double().T, targets, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_makes_the_loss_not_finite(library: ctypes.CDLL, value: float) -> None:
    hidden, weight, targets = random_inputs(8, 4, 33)
    hidden[3, 1] = value
    loss = fused_linear_cross_entropy(library, hidden.requires_grad_(), weight, targets, torch.float32)
    assert not loss.isfinite()


def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            logits = torch.randn(21, 77, generator=torch.Generator().manual_seed(1)) * 3
            losses, targets = torch.empty(21), torch.arange(21) * 3
            library.fabella_losses(
                0,
                ctypes.c_void_p(logits.data_ptr()),
                *map(ctypes.c_int64, (77, 21, 77)),
                ctypes.c_void_p(targets.data_ptr()),
                ctypes.c_void_p(losses.data_ptr()),
            )
            results.append((logits, losses))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_of_a_model_is_the_same_with_and_without_kernels(library: ctypes.CDLL, mixed: bool) -> None:
    hidden, weight, targets = random_inputs(30, 16, 70)
    targets[::7] = IGNORE
    losses = []
    for kernels in (None, library):
        with use_kernels(kernels), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses.append(linear_cross_entropy(hidden.requires_grad_(), weight, targets).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if mixed else 1e-6)
