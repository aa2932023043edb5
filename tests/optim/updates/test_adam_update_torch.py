"""Tests that our AdamW gives the bits of `torch.optim.AdamW`, and does not load PyTorch's compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.adam_update_torch import AdamUpdate

BETAS, EPS = (0.9, 0.95), 1e-8
SETTINGS = {"a": ParamSettings(1.0, 0.1), "b": ParamSettings(0.5, 0.0), "c": ParamSettings(1.0, 0.1)}
RATES = (0.1, 0.05, 0.02, 0.01)


def parameters() -> dict[str, nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2)}
    return {name: nn.Parameter(torch.randn(shape, generator=random)) for name, shape in shapes.items()}


def gradients(step: int, name: str, like: Tensor) -> Tensor | None:
    """Return the gradient of one step; ``c`` has one in every second step only."""
    if name == "c" and step % 2:
        return None
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(10 * step + ord(name)))


def updated(skipped: int = -1) -> dict[str, nn.Parameter]:
    """Return the parameters after all steps but ``skipped``, updated by us."""
    ours = parameters()
    optimizer = AdamUpdate(ours, SETTINGS, betas=BETAS, eps=EPS)
    for step, rate in enumerate(RATES):
        for name, parameter in ours.items():
            parameter.grad = gradients(step, name, parameter)
        optimizer.step(rate, torch.tensor(step != skipped))
    assert optimizer.updates() == len(RATES) - (skipped >= 0)
    return ours


@pytest.mark.parametrize("skipped", [-1, 1])
def test_updates_have_the_bits_of_the_class_of_pytorch(skipped: int) -> None:
    theirs = parameters()
    groups = [
        {"params": [theirs[name]], "weight_decay": of.weight_decay, "factor": of.lr_factor}
        for name, of in SETTINGS.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS, fused=True)
    for step, rate in enumerate(RATES):
        if step == skipped:
            continue
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for name, parameter in theirs.items():
            parameter.grad = gradients(step, name, parameter)
        optimizer.step()
    for name, parameter in updated(skipped).items():
        assert torch.equal(parameter, theirs[name]), name
        assert not torch.equal(parameter, parameters()[name]), name


def test_a_restored_state_continues_with_the_same_bits() -> None:
    ours = parameters()
    optimizer = AdamUpdate(ours, SETTINGS, betas=BETAS, eps=EPS)
    for step, rate in enumerate(RATES):
        if step == 2:
            state, count = {name: tensor.clone() for name, tensor in optimizer.state().items()}, optimizer.updates()
            optimizer = AdamUpdate(ours, SETTINGS, betas=BETAS, eps=EPS)
            optimizer.load_state(state, count)
        for name, parameter in ours.items():
            parameter.grad = gradients(step, name, parameter)
            if name == "c":  # an update more of one parameter than of another is not part of a state
                parameter.grad = gradients(0, name, parameter)
        optimizer.step(rate, torch.tensor(True))
    again = parameters()
    straight = AdamUpdate(again, SETTINGS, betas=BETAS, eps=EPS)
    for step, rate in enumerate(RATES):
        for name, parameter in again.items():
            parameter.grad = gradients(0 if name == "c" else step, name, parameter)
        straight.step(rate, torch.tensor(True))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


TRAINING = """
import sys, tempfile
from pathlib import Path
from fabella.training.run import start_run
from tests.training import tiny
folder = Path(tempfile.mkdtemp())
start_run(tiny.run(steps=2), folder / "run", tiny.prepared(folder), device="cpu")
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
"""


def test_a_training_does_not_load_the_compiler_of_pytorch() -> None:
    """It takes every training process a second or more."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
