"""Tests that a training on a CPU with kernels learns what it learns without, and continues bit for bit."""

import math

import numpy as np
import pytest
import torch

from fabella.data.batches import Batch
from fabella.engine.build_model_torch import build
from fabella.engine.cpu.cpu_training_torch import CpuTraining, prepare_cpu_training
from fabella.engine.device_torch import compute_here
from fabella.engine.engine import Engine, State, create_engine
from fabella.models import IGNORE
from fabella.models.nn.kernels.library import SWITCH, kernel_library, use_kernels
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module, family_names
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from tests.engine.test_engine_torch import TINY, equal_states

CPU = torch.device("cpu")
TOLERANCE = {False: 1e-4, True: 4e-2}
"""Norm of a gradient's difference, as a share of it: of float32, and of bf16, whose roundings differ."""

needs_kernels = pytest.mark.skipif(kernel_library().library is None, reason=kernel_library().warning or "switched off")


def run(*overrides: str) -> RunConfig:
    return load_config("storybook-1m", [*TINY, "training.micro_batch_size=2", *overrides])


def batch(seed: int) -> Batch:
    ids = np.random.default_rng(seed).integers(0, 64, (4, 13)).astype(np.int32)
    return Batch(ids[:, :-1].copy(), ids[:, 1:].copy())


def train(engine: Engine, *seeds: int) -> State:
    for seed in seeds:
        engine.step(batch(seed), 1e-2)
    return engine.state()


@needs_kernels
@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("mixed", [False, True])
def test_kernels_give_every_family_the_same_loss_and_gradients(family: str, mixed: bool) -> None:
    config = family_module(family).Config.tiny()
    if "dropout" in type(config).model_fields:
        config = config.model_copy(update={"dropout": 0.0})
    model = build(config, initial_weights(config.parameters(), 1), CPU).train()
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (3, min(config.context_length, 20)), generator=random)
    targets = tokens.roll(-1, 1)
    targets[0, -5:] = IGNORE
    results = []
    for library in (None, kernel_library().library):
        model.zero_grad()
        with use_kernels(library), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = model.loss(tokens, targets)
        loss.backward()
        results.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss, gradients), (fused_loss, fused) = results
    assert fused_loss == pytest.approx(loss, rel=2e-3 if mixed else 1e-5)
    total = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    for name, gradient in gradients.items():  # the gradient of a key's bias is 0 but for rounding
        difference = (fused[name] - gradient).norm().item()
        assert difference <= TOLERANCE[mixed] * max(gradient.norm().item(), 0.05 * total), name


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("extra", [(), ("training.gradient_checkpointing=blocks",)], ids=str)
def test_a_restored_engine_with_kernels_continues_bit_for_bit(precision: str, extra: tuple[str, ...]) -> None:
    def engine() -> Engine:
        return create_engine(run(f"training.precision={{kind: {precision}}}", *extra), device="cpu")

    assert engine().describe()["kernels"] != "none"
    saved = train(engine(), 0, 1)
    resumed = engine()
    resumed.restore(saved)
    assert equal_states(train(resumed, 2, 3), train(engine(), 0, 1, 2, 3))


@needs_kernels
def test_a_run_that_began_without_kernels_continues_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    without = create_engine(run(), device="cpu")
    assert without.describe()["kernels"] == "none"
    expected = train(without, 0, 1)
    monkeypatch.delenv(SWITCH)
    recorded = {name: str(value) for name, value in without.describe().items()}
    resumed = create_engine(run(), device="cpu", recorded=recorded)
    assert equal_states(train(resumed, 0, 1), expected)
    assert not equal_states(train(create_engine(run(), device="cpu"), 0, 1), expected)
    monkeypatch.setenv(SWITCH, "auto")  # the user wants them now
    assert create_engine(run(), device="cpu", recorded=recorded).describe()["kernels"] != "none"


@needs_kernels
def test_evaluation_does_not_use_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for setting in ("auto", "off"):
        monkeypatch.setenv(SWITCH, setting)
        losses.append(create_engine(run(), device="cpu").losses(batch(0)))
    assert np.array_equal(*losses)


def test_other_devices_have_no_kernels() -> None:
    assert prepare_cpu_training(torch.device("meta"), compute_here) == CpuTraining()


def test_ranks_do_what_rank_0_does() -> None:
    assert prepare_cpu_training(CPU, lambda compute: "no compiler").describe() == "none"
    assert prepare_cpu_training(CPU, lambda compute: "no compiler").warning == "no compiler"
    if kernel_library().library is not None:
        assert prepare_cpu_training(CPU, lambda compute: "built").describe() != "none"
