"""Tests that the PyTorch engine implements the contract of engine.py."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.data.batches import Batch, document_starts
from fabella.engine.build_model_torch import load_model
from fabella.engine.engine import Engine, State, create_engine
from fabella.engine.engine_torch import TorchEngine
from fabella.errors import CheckpointError, ConfigError, NumericsError
from fabella.models import IGNORE
from fabella.models.parameters import initial_weights
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from tests.training.tiny import LEARNING

TINY = [
    *LEARNING, "model.vocab_size=64", "model.dim=16", "model.layers=2", "model.heads=2", "model.kv_heads=2",
    "model.ffn_dim=32",
]  # fmt: skip
# The order of sums over micro-batches differs: float32 rounding, amplified by Adam's division in the first steps.
ACCUMULATION_TOLERANCE = 2e-3


def run(*overrides: str) -> RunConfig:
    return load_config("storybook-1m", [*TINY, "training.micro_batch_size=4", *overrides])


def batch(seed: int = 0, num_sequences: int = 4, ignored: float = 0.0) -> Batch:
    random = np.random.default_rng(seed)
    ids = random.integers(0, 64, (num_sequences, 13)).astype(np.int32)
    targets = np.where(random.random((num_sequences, 12)) < ignored, IGNORE, ids[:, 1:]).astype(np.int32)
    return Batch(ids[:, :-1].copy(), targets)


def masked(plain: Batch) -> Batch:
    """Return the batch with documents of other lengths in each row."""
    return Batch(plain.tokens, plain.targets, document_starts(plain.tokens % 5, 0))


def equal_states(first: State, second: State) -> bool:
    """Return whether two states are equal bit for bit."""
    pairs = [
        (first.weights, second.weights),
        (first.optimizer_state, second.optimizer_state),
        (first.average, second.average),
    ]
    return dict(first.scalars) == dict(second.scalars) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in pairs
    )


def train(engine: Engine, *seeds: int) -> Engine:
    for seed in seeds:
        engine.step(batch(seed), 1e-2)
    return engine


def test_a_new_engine_has_the_initial_weights_and_zero_moments() -> None:
    state = create_engine(run()).state()
    expected = initial_weights(run().model.parameters(), run().seed)
    assert all(np.array_equal(state.weights[name], array) for name, array in expected.items())
    assert all(not array.any() for array in state.optimizer_state.values())
    assert state.scalars["step"] == 0


def test_steps_lower_the_loss_of_a_batch() -> None:
    engine = create_engine(run())
    losses = [engine.step(batch(), 1e-2).read()["loss"] for _ in range(41)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "overrides", [(), ("model.dropout=0.2",), ("optimizer.kind=adam",), ("optimizer.kind=muon",)], ids=str
)
def test_a_restored_engine_continues_bit_for_bit(overrides: tuple[str, ...]) -> None:
    uninterrupted = train(create_engine(run(*overrides)), 0, 1, 2, 3)
    saved = train(create_engine(run(*overrides)), 0, 1).state()
    resumed = create_engine(run(*overrides))
    resumed.restore(saved)
    assert equal_states(train(resumed, 2, 3).state(), uninterrupted.state())


def test_with_masked_documents_a_restored_engine_continues_bit_for_bit() -> None:
    uninterrupted, resumed = create_engine(run()), create_engine(run())
    for seed in range(4):
        uninterrupted.step(masked(batch(seed)), 1e-2)
        if seed == 1:
            resumed.restore(uninterrupted.state())
    for seed in (2, 3):
        resumed.step(masked(batch(seed)), 1e-2)
    assert equal_states(resumed.state(), uninterrupted.state())
    assert (resumed.losses(masked(batch(9))) != resumed.losses(batch(9))).any()


def test_micro_batches_of_masked_documents_are_the_step_of_the_whole_batch() -> None:
    whole, parts = (create_engine(run(f"training.micro_batch_size={size}")) for size in (8, 3))
    losses = [engine.step(masked(batch(1, num_sequences=8)), 1e-2).read() for engine in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0]["loss"] == pytest.approx(whole_loss(), rel=1e-4)


def whole_loss() -> float:
    """Return the loss of that step, before it."""
    return float(create_engine(run()).losses(masked(batch(1, num_sequences=8))).mean())


def test_a_family_without_masks_is_refused_before_the_first_step(tmp_path: Path) -> None:
    names = "from fabella.models.llama import Config\nfrom fabella.models.llama_torch import Model as Llama\n"
    (tmp_path / "own_torch.py").write_text(f"{names}class Model(Llama):\n    masks_documents = False\n")
    config = run().model.model_copy(update={"family": str(tmp_path / "own_torch.py")})
    plain, packed = (
        run().model_copy(update={"model": config}),
        run("data.sequences={kind: packed, length: 8, stride: 8}"),
    )
    create_engine(plain)
    sequences = packed.data.sequences.model_copy(update={"mask_documents": True})
    data = packed.data.model_copy(update={"sequences": sequences})
    with pytest.raises(ConfigError, match="own_torch does not mask documents") as refused:
        create_engine(plain.model_copy(update={"data": data}))
    assert "data.sequences.mask_documents=false" in str(refused.value)


def test_a_snapshot_is_not_changed_by_later_steps() -> None:
    engine = train(create_engine(run()), 0)
    saved = engine.state()
    weights, moments = ({k: np.copy(v) for k, v in part.items()} for part in (saved.weights, saved.optimizer_state))
    copy = State(weights, moments, saved.scalars)
    train(engine, 1, 2)
    assert equal_states(saved, copy)


def test_evaluating_changes_nothing() -> None:
    plain, measured = create_engine(run("model.dropout=0.2")), create_engine(run("model.dropout=0.2"))
    for seed in range(3):
        train(plain, seed)
        measured.losses(batch(9))
        with measured.evaluating() as model:
            model(torch.zeros(1, 3, dtype=torch.long))
        train(measured, seed)
    assert equal_states(plain.state(), measured.state())


@pytest.mark.parametrize("micro", [1, 2, 6])
def test_the_gradient_with_ignored_targets_is_that_of_a_hand_written_masked_loss(micro: int) -> None:
    engine = create_engine(run(f"training.micro_batch_size={micro}", "optimizer.max_grad_norm=1e9"))
    model: Any = getattr(engine, "model")  # noqa: B009 - a part of this engine only
    masked = batch(5, num_sequences=6, ignored=0.8)
    assert masked.num_targets < 30
    tokens = torch.from_numpy(masked.tokens).long()
    mask = torch.from_numpy(masked.targets != IGNORE)
    targets = torch.from_numpy(np.where(masked.targets == IGNORE, 0, masked.targets)).long()
    losses = -torch.log_softmax(model(tokens), dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    loss = (losses * mask).sum() / mask.sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = dict(zip(dict(model.named_parameters()), gradients, strict=True))
    assert engine.step(masked, 1e-9).read()["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


@settings(max_examples=10)
@given(micro=st.integers(1, 6), ignored=st.floats(0.0, 0.9))
def test_accumulating_micro_batches_is_the_step_of_the_whole_batch(micro: int, ignored: float) -> None:
    single, accumulated = (
        create_engine(run("training.micro_batch_size=6")),
        create_engine(run(f"training.micro_batch_size={micro}")),
    )
    batch_of_six = batch(3, num_sequences=6, ignored=ignored)
    losses = [engine.step(batch_of_six, 1e-3).read()["loss"] for engine in (single, accumulated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, array in single.state().weights.items():
        np.testing.assert_allclose(accumulated.state().weights[name], array, atol=ACCUMULATION_TOLERANCE)


def test_losses_are_per_target_and_zero_if_ignored() -> None:
    engine = create_engine(run())
    padded = batch(1, ignored=0.5)
    losses = engine.losses(padded)
    assert losses.shape == padded.tokens.shape
    assert not losses[padded.targets == IGNORE].any()
    mean = losses.sum() / padded.num_targets
    assert mean == pytest.approx(engine.step(padded, 1e-3).read()["loss"], rel=1e-5)


def test_weight_decay_applies_to_matrices_only() -> None:
    without_decay, with_decay = (
        create_engine(run("optimizer.weight_decay=0.0")),
        create_engine(run("optimizer.weight_decay=5.0")),
    )
    before = without_decay.state().weights
    for engine in (without_decay, with_decay):
        engine.step(batch(), 1e-2)
    for name, parameter in run().model.parameters().items():
        assert parameter.decay == (len(parameter.shape) > 1), name
        decay = without_decay.state().weights[name] - with_decay.state().weights[name]
        # lr × decay × weight; the update itself is about 1e-2, so that float32 resolves about 1e-8.
        np.testing.assert_allclose(decay, 0.05 * before[name] if parameter.decay else 0.0, atol=1e-7, err_msg=name)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    clipped_engine, unclipped_engine = (
        create_engine(run("optimizer.max_grad_norm=1e-3")),
        create_engine(run("optimizer.max_grad_norm=1e9")),
    )
    norms = [engine.step(batch(), 1e-3).read()["grad_norm"] for engine in (clipped_engine, unclipped_engine)]
    assert norms[0] == norms[1] > 1e-3
    first = {name: array for name, array in clipped_engine.state().optimizer_state.items() if name.startswith("first.")}
    clipped = np.sqrt(sum(float(((array.astype(np.float64) / 0.1) ** 2).sum()) for array in first.values()))
    assert clipped == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("nan_name", ["blocks.0.attention.query.weight", "embedding.weight"])
def test_a_step_that_is_not_finite_names_a_tensor_and_leaves_the_weights(nan_name: str) -> None:
    engine = create_engine(run())
    state = engine.state()
    with_nan = {name: array.copy() for name, array in state.weights.items()}
    with_nan[nan_name].flat[0] = np.nan
    engine.restore(dataclasses.replace(state, weights=with_nan))
    every_id = Batch(np.arange(64, dtype=np.int32).reshape(4, 16), np.arange(64, dtype=np.int32).reshape(4, 16))
    with pytest.raises(NumericsError, match=r"the gradient of .* is not finite\. The weights did not change"):
        engine.step(every_id, 1e-2)
    for name, array in engine.state().weights.items():
        if name != nan_name:
            assert np.isfinite(array).all(), name


def test_a_batch_without_a_target_is_refused() -> None:
    empty = Batch(batch().tokens, np.full((4, 12), IGNORE, dtype=np.int32))
    with pytest.raises(ConfigError, match="A batch has no targets"):
        create_engine(run()).step(empty, 1e-3)


def test_weights_of_another_model_are_refused() -> None:
    weights = create_engine(run("model.layers=1")).state().weights
    with pytest.raises(CheckpointError, match="Weights do not fit the model"):
        load_model(run().model, weights)


def test_a_state_without_moments_is_refused() -> None:
    engine = create_engine(run())
    with pytest.raises(CheckpointError, match=r"Checkpoint has no optimizer state for first\."):
        engine.restore(dataclasses.replace(engine.state(), optimizer_state={}))


def test_an_unknown_device_is_an_error_that_lists_the_devices() -> None:
    with pytest.raises(ConfigError, match=r"Unknown device 'tpu'. Choose from: auto, .*cpu"):
        create_engine(run(), device="tpu")


def test_half_precision_on_a_cpu_is_described_as_float32() -> None:
    engine = create_engine(run("training.precision.kind=fp16"))
    assert engine.describe()["precision"] == "float32 (fp16 on GPUs)"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_on_a_gpu_lowers_the_loss(kind: str) -> None:
    engine = create_engine(run(f"training.precision.kind={kind}"), device="cuda")
    losses = [engine.step(batch(), 1e-2).read()["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 2


FROZEN = ("embedding.*", "blocks.0.*")


@pytest.mark.parametrize("kind", ["adamw", "adam", "muon"])
@pytest.mark.parametrize("freeze", [FROZEN, ("embedding.*", "*norm*"), ("blocks.*",)], ids=str)
def test_frozen_parameters_have_no_optimizer_state_and_never_change(kind: str, freeze: tuple[str, ...]) -> None:
    of = run(f"optimizer.kind={kind}", f"training.freeze={list(freeze)}", "training.micro_batch_size=2")
    before, after = create_engine(of).state(), train(create_engine(of), 0, 1, 2).state()
    frozen = of.model.parameters().keys() - of.trainable_parameters.keys()
    assert frozen
    for name, array in after.weights.items():
        assert np.array_equal(array, before.weights[name]) == (name in frozen)
    assert {name.partition(".")[2] for name in after.optimizer_state} == set(of.trainable_parameters)


def test_the_gradients_of_the_other_parameters_do_not_depend_on_what_is_frozen() -> None:
    """Weight decay and moments are per parameter, so the first step without clipping is the same."""
    settings = ("optimizer.max_grad_norm=1e9",)
    whole = train(create_engine(run(*settings)), 0).state()
    part = train(create_engine(run(*settings, f"training.freeze={list(FROZEN)}")), 0).state()
    for name in run(f"training.freeze={list(FROZEN)}").trainable_parameters:
        np.testing.assert_allclose(part.weights[name], whole.weights[name], rtol=1e-6, atol=1e-7)


def test_with_frozen_parameters_a_restored_engine_continues_bit_for_bit() -> None:
    of = run("optimizer.kind=muon", "training.freeze=['embedding.*', '*norm*']")
    uninterrupted = train(create_engine(of), 0, 1, 2, 3)
    resumed = create_engine(of)
    resumed.restore(train(create_engine(of), 0, 1).state())
    assert equal_states(train(resumed, 2, 3).state(), uninterrupted.state())


# ---------------------------------------------------------------- other devices


def test_only_pinned_memory_is_copied_asynchronously(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of a copy to an Apple GPU is freed at once; such a copy must be finished by then."""
    engine = cast("TorchEngine", create_engine(run()))
    copies: list[bool] = []
    real = torch.Tensor.to

    def to(tensor: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        copies.append(bool(options.get("non_blocking")))
        return real(tensor, *arguments, **options)  # pyright: ignore

    monkeypatch.setattr(torch.Tensor, "to", to)
    engine._to_device(batch().tokens)
    assert copies == [False]


def test_a_non_finite_step_is_not_left_to_a_kernel_of_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are on the CPU; the engine decides as if they were not."""
    engine = cast("TorchEngine", create_engine(run("training.on_nonfinite.kind=skip")))
    applied: list[float] = []
    forward_backward = engine._forward_backward

    def non_finite_loss(batch: Batch) -> torch.Tensor:
        loss = forward_backward(batch)
        engine.device = torch.device("mps")
        return loss * float("nan")

    monkeypatch.setattr(engine.optimizer.rule, "step", lambda lr, apply_update: applied.append(lr))
    monkeypatch.setattr(engine, "_forward_backward", non_finite_loss)
    assert engine.step(batch(), 1e-2).read()["skipped_steps"] == 1
    assert applied == []


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["piny-37m", "mingru-17m"])
def test_steps_on_a_gpu_repeat_bit_for_bit_at_the_sizes_that_people_train(family: str) -> None:
    """With sequences of one block of keys, attention is deterministic anyway; with 512 tokens it must be asked for."""
    config = load_config(family, ["model.layers=2", "training.micro_batch_size=16", "training.length.max_steps=4"])
    random = np.random.default_rng(1)
    ids = random.integers(0, config.model.vocab_size, (16, 513)).astype(np.int32)
    states = []
    for _ in range(2):
        engine = create_engine(config, device="cuda")
        for _ in range(3):
            engine.step(Batch(ids[:, :-1].copy(), ids[:, 1:].copy()), 1e-3)
        states.append(engine.state())
    assert equal_states(states[0], states[1])
