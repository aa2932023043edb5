"""Tests of Muon: which weights it updates, its state, its updates, and that a non-finite step changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from fabella.engine.device_torch import Precision
from fabella.engine.engine import State
from fabella.engine.engine_torch import TorchEngine, create_engine
from fabella.errors import CheckpointError
from fabella.models.parameters import block_matrices
from fabella.optim.muon_torch import MuonUpdate
from fabella.optim.param_groups import ParamSettings
from fabella.optim.updates.interface_torch import TensorLayout
from fabella.optim.updates.orthogonalize_torch import orthogonalize
from tests.engine.test_engine_torch import batch, run

MUON = "optimizer.kind=muon"
MATRIX = "blocks.0.attention.query.weight"


def states_of_steps(*overrides: str, steps: int = 1) -> tuple[State, State]:
    """Return the states of an engine before and after ``steps`` steps."""
    engine = create_engine(run(MUON, *overrides))
    before = engine.state()
    for seed in range(steps):
        engine.step(batch(seed), 1e-2)
    return before, engine.state()


def change(states: tuple[State, State], name: str) -> np.ndarray:
    return states[1].weights[name] - states[0].weights[name]


def test_matrices_of_the_blocks_have_a_momentum_and_all_other_weights_two_moments() -> None:
    table = run().model.parameters()
    _, state = states_of_steps()
    seconds = {name.removeprefix("second.") for name in state.optimizer_state if name.startswith("second.")}
    matrices = {name for name in table if name.startswith("blocks.") and "norm" not in name}
    assert set(table) - seconds == set(block_matrices(table)) == matrices
    assert {name for name in state.optimizer_state if name.startswith("first.")} == {f"first.{name}" for name in table}
    assert all(array.any() for array in state.optimizer_state.values())


def test_a_step_of_a_matrix_is_nearly_orthogonal_and_as_large_as_adams() -> None:
    step = change(states_of_steps("optimizer.weight_decay=0.0"), MATRIX) / -1e-2
    values = np.linalg.svd(step, compute_uv=False) / (0.2 * np.sqrt(max(step.shape)))
    assert values.min() > 0.3  # five iterations in bfloat16 give singular values between about 0.5 and 1.2
    assert values.max() < 1.4


def test_the_adamw_part_has_its_own_learning_rate() -> None:
    without_decay = "optimizer.adamw.weight_decay=0.0"
    full_lr, tenth_lr = states_of_steps(without_decay), states_of_steps(without_decay, "optimizer.adamw.lr_factor=0.1")
    assert np.array_equal(change(full_lr, MATRIX), change(tenth_lr, MATRIX))
    np.testing.assert_allclose(
        change(tenth_lr, "embedding.weight"), change(full_lr, "embedding.weight") / 10, atol=1e-7
    )


@pytest.mark.parametrize(
    ("setting", "name"), [("weight_decay", MATRIX), ("adamw.weight_decay", "embedding.weight")], ids=str
)
def test_each_part_has_its_own_weight_decay(setting: str, name: str) -> None:
    no_decay = ("optimizer.weight_decay=0.0", "optimizer.adamw.weight_decay=0.0")
    without_decay, with_decay = states_of_steps(*no_decay), states_of_steps(*no_decay, f"optimizer.{setting}=5.0")
    for other in run().model.parameters():
        decays = other == name or (name == MATRIX and other in block_matrices(run().model.parameters()))
        decay = without_decay[1].weights[other] - with_decay[1].weights[other]
        np.testing.assert_allclose(
            decay, 0.05 * without_decay[0].weights[other] if decays else 0.0, atol=1e-7, err_msg=other
        )


def test_steps_lower_the_loss() -> None:
    engine = create_engine(run(MUON))
    losses = [engine.step(batch(), 1e-2).read()["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_non_finite_step_changes_neither_weights_nor_state(norm: float) -> None:
    engine = create_engine(run(MUON))
    assert isinstance(engine, TorchEngine)
    engine.step(batch(), 1e-2)
    before = engine.state()
    for parameter in engine.model.parameters():
        parameter.grad = torch.full_like(parameter, norm)
    engine.optimizer.clip(torch.tensor(norm))
    engine.optimizer.rule.step(1e-2, torch.tensor(False))
    after = engine.state()
    assert all(np.array_equal(after.weights[name], array) for name, array in before.weights.items())
    assert all(np.array_equal(after.optimizer_state[name], array) for name, array in before.optimizer_state.items())


SINGLE_DEVICE = TensorLayout(full_tensor=lambda tensor: tensor, distribute=lambda full, like: full)
# PyTorch's Muon orthogonalizes in bfloat16, with 8 bits of precision: five iterations err by a few hundredths.
BFLOAT16_TOLERANCE = 0.06


def updates(shapes: dict[str, tuple[int, int]], device: str) -> tuple[MuonUpdate, dict[str, nn.Parameter]]:
    """Return Muon for random matrices, and copies of them."""
    generator = torch.Generator().manual_seed(0)
    starts = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    parameters = {name: nn.Parameter(start.clone()) for name, start in starts.items()}
    settings = {name: ParamSettings(1.0, 0.1) for name in shapes}
    muon = MuonUpdate(parameters, settings, momentum=0.95, layout=SINGLE_DEVICE)
    return muon, {name: nn.Parameter(start) for name, start in starts.items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_updates_equal_those_of_pytorchs_muon_within_bfloat16_and_skip_nonfinite_steps(device: str) -> None:
    muon, copies = updates({"wide": (4, 6), "tall": (6, 4), "other": (4, 6)}, device)
    torch_muon = torch.optim.Muon(
        copies.values(), lr=1e-2, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    generator = torch.Generator().manual_seed(1)
    for finite in (True, False, True):
        for name, parameter in muon.parameters.items():
            gradient = torch.randn(parameter.shape, generator=generator).to(device)
            parameter.grad = gradient if finite else torch.full_like(gradient, torch.nan)
            copies[name].grad = gradient.clone()
        if finite:
            torch_muon.step()
        muon.step(1e-2, torch.tensor(finite, device=device))
    for name, parameter in muon.parameters.items():
        max_change = 1e-2 * 0.2 * 6**0.5 * 2  # of two updates with singular values of 1
        difference = (parameter - copies[name]).abs().max().item()
        assert difference < BFLOAT16_TOLERANCE * max_change, name
        momentum = torch_muon.state[copies[name]]["momentum_buffer"]
        torch.testing.assert_close(muon.momenta[name], momentum, rtol=1e-5, atol=1e-7)


def test_matrices_of_one_shape_are_updated_as_in_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"a": (4, 6), "b": (4, 6), "c": (5, 3), "d": (4, 6)}
    batched, _ = updates(shapes, "cpu")
    monkeypatch.setattr("fabella.optim.muon_torch.MAX_BATCH_VALUES", 1)
    single, _ = updates(shapes, "cpu")
    for muon in (batched, single):
        generator = torch.Generator().manual_seed(1)
        for parameter in muon.parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    with monkeypatch.context() as patch:
        patch.setattr("fabella.optim.muon_torch.MAX_BATCH_VALUES", 48)  # two of the larger matrices
        batched.step(1e-2, torch.tensor(True))
    single.step(1e-2, torch.tensor(True))
    for name, parameter in batched.parameters.items():
        torch.testing.assert_close(parameter, single.parameters[name])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, BFLOAT16_TOLERANCE)])
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 6, 4)])
def test_orthogonalized_matrices_keep_their_singular_vectors(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = left.mT @ orthogonalize(matrices, dtype).float() @ right.mT
    diagonal = torch.diagonal(values, dim1=-2, dim2=-1)
    assert diagonal.min() > 0.5
    assert diagonal.max() < 1.3
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0.0, atol=tolerance)


def test_gradients_are_clipped_to_the_norm_of_all_weights() -> None:
    _, state = states_of_steps("optimizer.max_grad_norm=1e-3")
    matrices = block_matrices(run().model.parameters())
    first = {
        n.removeprefix("first."): a.astype(np.float64)
        for n, a in state.optimizer_state.items()
        if n.startswith("first.")
    }
    shares = [array / (0.05 if name in matrices else 0.1) for name, array in first.items()]
    assert np.sqrt(sum(float((share**2).sum()) for share in shares)) == pytest.approx(1e-3, rel=1e-3)


def test_adam_refuses_the_state_of_muon() -> None:
    _, state = states_of_steps()
    with pytest.raises(CheckpointError, match=r"Checkpoint has no optimizer state for second\.blocks"):
        create_engine(run()).restore(state)


@pytest.mark.gpu
def test_on_a_gpu_a_non_finite_step_changes_nothing() -> None:
    engine = create_engine(run(MUON), device="cuda")
    engine.step(batch(), 1e-2).read()
    state = engine.state()
    with_nan = {name: array.copy() for name, array in state.weights.items()}
    with_nan[MATRIX][0, 0] = np.nan
    engine.restore(State(with_nan, state.optimizer_state, state.scalars))
    engine.step(batch(), 1e-2)
    after = engine.state()
    assert all(np.array_equal(after.weights[n], a, equal_nan=True) for n, a in with_nan.items())
    assert all(np.array_equal(after.optimizer_state[n], a) for n, a in state.optimizer_state.items())


@pytest.mark.parametrize(
    ("device", "compute", "expected"),
    [
        ("cpu", torch.float32, torch.float32),
        ("cpu", torch.bfloat16, torch.bfloat16),
        ("cuda", torch.float32, torch.bfloat16),
        ("mps", torch.float16, torch.float32),
    ],
)
def test_products_are_bfloat16_where_the_device_is_fast_with_it(
    device: str, compute: torch.dtype, expected: torch.dtype
) -> None:
    assert Precision(compute, scaled=False, device=torch.device(device)).optimizer_dtype == expected
