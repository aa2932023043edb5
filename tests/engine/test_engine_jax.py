"""Tests that the JAX engine implements the contract of engine.py and trains like the PyTorch engine."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from fabella.data.batches import Batch, document_starts
from fabella.engine.build_model_jax import load_model
from fabella.engine.device_jax import Sharding, pick_devices
from fabella.engine.engine import Engine, State, create_engine
from fabella.engine.engine_jax import JaxEngine
from fabella.errors import CheckpointError, ConfigError, NonFiniteStepError, NumericsError
from fabella.models import IGNORE
from fabella.models.parameters import initial_weights
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from fabella.training.setup.request import TrainRequest, resolve_request
from tests.models.nn.test_layers_jax import different_presets, reduced
from tests.training.tiny import LEARNING

TINY = [
    *LEARNING, "model.vocab_size=64", "model.dim=16", "model.layers=1", "model.heads=2", "model.kv_heads=1",
    "model.ffn_dim=24",
]  # fmt: skip
# The order of sums over micro-batches differs: float32 rounding, amplified by Adam's division in the first steps.
ACCUMULATION_TOLERANCE = 2e-3
# Relative, of each loss of fifty steps, compared with PyTorch.
TRAJECTORY_TOLERANCE = 1e-4
# Of each gradient norm in these steps: rounding of the weights affects a norm more than the loss.
NORM_TOLERANCE = 1e-3
STEPS = 50


def run(*overrides: str, engine: str = "jax") -> RunConfig:
    return load_config("storybook-1m", [*TINY, "training.micro_batch_size=4", f"engine={engine}", *overrides])


def batch(seed: int = 0, num_sequences: int = 8, ignored: float = 0.0, vocab_size: int = 64) -> Batch:
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab_size, (num_sequences, 13)).astype(np.int32)
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


# ---------------------------------------------------------------- compared with PyTorch


GROUPS = "optimizer.groups={embeddings: {lr_factor: 2, decay_factor: 0}, vectors: {lr_factor: 0.5, decay_factor: 3}}"


def reduced_run(name: str, engine: str, *overrides: str) -> RunConfig:
    """Return a preset with its optimizer and a small model, two micro-batches per step and clipped gradients."""
    settings = [
        f"engine={engine}",
        "training.micro_batch_size=4",
        "training.compile=none",
        "optimizer.max_grad_norm=0.5",
    ]
    settings += ["data.sequences={kind: packed, length: 12, stride: 12}"]
    preset = load_config(name, [*settings, *overrides])
    return preset.model_copy(update={"model": reduced(preset.model)})


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, ()) for name in different_presets()), ("storybook-1m", (GROUPS,))]
)
def test_fifty_steps_of_any_preset_are_those_of_pytorch(name: str, overrides: tuple[str, ...]) -> None:
    """With two micro-batches per step, padding, clipping, and the weight decay of the preset."""
    engines = [create_engine(reduced_run(name, engine, *overrides)) for engine in ("torch", "jax")]
    batches = [batch(seed % 5, ignored=0.2, vocab_size=61) for seed in range(STEPS)]
    torch_rows, jax_rows = ([engine.step(item, 1e-3).read() for item in batches] for engine in engines)
    for key, tolerance in (("loss", TRAJECTORY_TOLERANCE), ("grad_norm", NORM_TOLERANCE)):
        np.testing.assert_allclose(
            [row[key] for row in torch_rows], [row[key] for row in jax_rows], rtol=tolerance, err_msg=key
        )


@pytest.mark.parametrize(("first_engine", "second_engine"), [("torch", "jax"), ("jax", "torch")])
def test_a_run_of_one_engine_resumes_in_the_other(first_engine: str, second_engine: str) -> None:
    initial = [create_engine(run(engine=first_engine)).step(batch(0), 1e-2).read()["loss"]]
    first, second = create_engine(run(engine=first_engine)), create_engine(run(engine=second_engine))
    train(first, 0, 1, 2)
    second.restore(first.state())
    expected, actual = ([engine.step(batch(s), 1e-2).read()["loss"] for s in range(3, 9)] for engine in (first, second))
    np.testing.assert_allclose(actual, expected, rtol=TRAJECTORY_TOLERANCE)
    assert min(expected) < initial[0]
    assert second.state().scalars == first.state().scalars


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("overrides", [(), ("model.dropout=0.2",)], ids=["plain", "dropout"])
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
        measured.histograms()
        with measured.evaluating() as evaluated:
            evaluated.model.forward(evaluated.network, np.zeros((1, 3), np.int32))
        train(measured, seed)
    assert equal_states(plain.state(), measured.state())


def test_dropout_makes_steps_differ_and_losses_not() -> None:
    engine = create_engine(run("model.dropout=0.5"))
    assert np.array_equal(engine.losses(batch()), engine.losses(batch()))
    first, second = (engine.step(batch(), 0.0).read()["loss"] for _ in range(2))
    assert first != second


def test_the_loss_and_the_step_with_ignored_targets_are_those_of_pytorch() -> None:
    """And its gradient is that of a hand-written masked loss, see test_engine_torch.py."""
    masked = batch(5, num_sequences=6, ignored=0.8)
    results = []
    for name, micro in (("torch", 6), ("jax", 6), ("jax", 2)):
        engine = create_engine(run(f"training.micro_batch_size={micro}", engine=name))
        measured = engine.step(masked, 1e-3).read()
        results.append((measured["loss"], measured["grad_norm"]))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)


@pytest.mark.parametrize("micro", [1, 4])
def test_accumulating_micro_batches_is_the_step_of_the_whole_batch(micro: int) -> None:
    """Also if the last micro-batch is not full, and with dropout, which is drawn for each row."""
    single, accumulated = (
        create_engine(run("model.dropout=0.2", f"training.micro_batch_size={size}")) for size in (6, micro)
    )
    batch_of_six = batch(3, num_sequences=6, ignored=0.3)
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


def test_documents_are_padded_to_few_shapes_without_changing_the_losses() -> None:
    engine = create_engine(run("data.sequences={kind: padded, length: 48}"))
    assert isinstance(engine, JaxEngine)
    full = batch(2)
    shapes = {engine._padded(Batch(full.tokens[:, :n], full.targets[:, :n]), 8).tokens.shape for n in range(1, 13)}  # pyright: ignore[reportPrivateUsage]
    assert shapes == {(8, 12)}
    packed = create_engine(run())
    np.testing.assert_allclose(
        engine.losses(Batch(full.tokens[:, :7], full.targets[:, :7])), packed.losses(full)[:, :7], atol=1e-5
    )


def test_weight_decay_applies_to_matrices_only() -> None:
    without_decay, with_decay = (
        create_engine(run("optimizer.weight_decay=0.0")),
        create_engine(run("optimizer.weight_decay=5.0")),
    )
    before = without_decay.state().weights
    for engine in (without_decay, with_decay):
        engine.step(batch(), 1e-2)
    for name, parameter in run().model.parameters().items():
        decay = without_decay.state().weights[name] - with_decay.state().weights[name]
        # lr × decay × weight; the update itself is about 1e-2, so that float32 resolves about 1e-8.
        np.testing.assert_allclose(decay, 0.05 * before[name] if parameter.decay else 0.0, atol=1e-7, err_msg=name)


def test_histograms_are_of_weights_and_gradients() -> None:
    engine = create_engine(run())
    names = set(run().model.parameters())
    assert set(engine.histograms()) == {f"weights/{name}" for name in names}
    engine.step(batch(), 1e-2)
    histograms = engine.histograms()
    assert set(histograms) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    for name, parameter in run().model.parameters().items():
        assert sum(histograms[f"gradients/{name}"].counts) == parameter.size


# ---------------------------------------------------------------- errors


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
    after = engine.state()
    for name, array in with_nan.items():
        assert np.array_equal(after.weights[name], array, equal_nan=True), name
    assert not any(array.any() for array in after.optimizer_state.values())
    assert after.scalars == {"step": 1, "updates": 0}


def test_no_step_is_applied_after_a_failed_one_that_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where results are read some steps later."""
    monkeypatch.setattr(JaxEngine, "_waits", True)
    engine = train(create_engine(run()), 0, 1)
    before = engine.state()
    engine.step(batch(2), float("nan"))  # the weights are not finite after this one
    results = [engine.step(batch(seed), 1e-2) for seed in (3, 4)]
    assert engine.state().scalars == {"step": 5, "updates": before.scalars["updates"] + 1}
    for result in results:
        with pytest.raises(NonFiniteStepError, match="Step 4: loss nan") as error:
            result.read()
        assert error.value.step == 4


def test_a_batch_without_a_target_is_refused() -> None:
    empty = Batch(batch().tokens, np.full((8, 12), IGNORE, dtype=np.int32))
    with pytest.raises(ConfigError, match="A batch has no targets"):
        create_engine(run()).step(empty, 1e-3)


def test_weights_of_another_model_are_refused() -> None:
    weights = create_engine(run("model.layers=2")).state().weights
    with pytest.raises(CheckpointError, match="Weights do not fit the model"):
        load_model(run().model, weights)


def test_a_state_without_moments_is_refused() -> None:
    engine = create_engine(run())
    with pytest.raises(CheckpointError, match=r"Checkpoint has no optimizer state for first\."):
        engine.restore(dataclasses.replace(engine.state(), optimizer_state={}))


def test_an_unknown_device_is_an_error_that_lists_the_devices() -> None:
    with pytest.raises(ConfigError, match=r"Unknown device 'quantum'. Choose from: auto, .*cpu"):
        create_engine(run(), device="quantum")
    with pytest.raises(ConfigError, match="Cannot use 9 devices: this machine has 1"):
        pick_devices("cpu", 9)


def test_muon_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.kind = 'muon' is not implemented for engine=jax"):
        create_engine(run("optimizer.kind=muon"))


def test_half_precision_on_a_cpu_is_described_as_float32() -> None:
    engine = create_engine(run("training.precision.kind=fp16"))
    assert engine.describe()["precision"] == "float32 (fp16 on GPUs)"


def test_an_engine_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "fabella.engine.engine_jax")
    message = r"Cannot use engine=jax: the Python package 'jax' is not installed\. .*pip install 'fabella\[jax\]'"
    with pytest.raises(ConfigError, match=message):
        create_engine(run())
    with pytest.raises(ConfigError, match=message):
        resolve_request(TrainRequest(what="storybook-1m", engine="jax"))


# ---------------------------------------------------------------- several devices


EIGHT = """
import sys
import numpy as np
from tests.engine.test_engine_jax import batch, run, equal_states, train
from fabella.engine.device_jax import DEVICES
from fabella.engine.engine import create_engine

ALL = "model.dropout=0.2", "training.micro_batch_size=1", "optimizer.average.kind=ema"
results = {}
for name, count, kind in (("one", 1, "ddp"), ("eight", 8, "ddp"), ("again", 8, "ddp"), ("shards", 8, "fsdp")):
    DEVICES.set(count)
    engine = create_engine(run(*ALL, f"training.parallel.kind={kind}"))
    train(engine, 0, 1, 2)
    results[name] = engine.state()
    print(name, engine.describe().get("parallel", ""), engine.losses(batch(5, num_sequences=3)).shape)
DEVICES.set(8)
engine = create_engine(run(*ALL, "training.parallel.kind=fsdp"))
query = "blocks.0.attention.query.weight"
print("whole", engine.weights[query].size, "shard", engine.weights[query].addressable_shards[0].data.size)
train(engine, 0)
saved = engine.state()
engine = create_engine(run(*ALL, "training.parallel.kind=fsdp"))
engine.restore(saved)
train(engine, 1, 2)
print("resumed", equal_states(engine.state(), results["shards"]))
print("repeated", equal_states(results["eight"], results["again"]))
for name in ("eight", "shards"):
    difference = max(np.abs(results[name].weights[n] - w).max() for n, w in results["one"].weights.items())
    averages = results[name].average, results["one"].average
    difference = max(difference, *(np.abs(averages[0][n] - a).max() for n, a in averages[1].items()))
    print(name, "near" if difference < 2e-3 else difference)
"""


def test_eight_devices_train_like_one_and_repeat_bit_for_bit() -> None:
    """The devices are simulated. Dropout drops the same values on each number of devices: only rounding differs."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    process = subprocess.run(
        [sys.executable, "-c", EIGHT],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "one  (3, 12)",
        "eight ddp, 8 devices (3, 12)",
        "again ddp, 8 devices (3, 12)",
        "shards fsdp, 8 devices (3, 12)",
        "whole 256 shard 32",
        "resumed True",
        "repeated True",
        "eight near",
        "shards near",
    ]


def test_one_device_is_never_sharded() -> None:
    assert not Sharding.over(pick_devices("cpu"), run("training.parallel.kind=fsdp").training.parallel).sharded


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_on_a_gpu_lowers_the_loss(kind: str) -> None:
    engine = create_engine(run(f"training.precision.kind={kind}"), device="cuda")
    losses = [engine.step(batch(), 1e-2).read()["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 2


FROZEN = "training.freeze=['embedding.*', 'blocks.0.attention.*']"


def test_frozen_parameters_have_no_optimizer_state_and_never_change() -> None:
    of = run(FROZEN)
    before, after = create_engine(of).state(), train(create_engine(of), 0, 1, 2).state()
    frozen = of.model.parameters().keys() - of.trainable_parameters.keys()
    assert frozen
    for name, array in after.weights.items():
        assert np.array_equal(array, before.weights[name]) == (name in frozen)
    assert {name.partition(".")[2] for name in after.optimizer_state} == set(of.trainable_parameters)


def test_with_frozen_parameters_both_engines_train_the_same_weights() -> None:
    states = [train(create_engine(run(FROZEN, engine=engine)), 0, 1, 2).state() for engine in ("torch", "jax")]
    for name, array in states[0].weights.items():
        np.testing.assert_allclose(states[1].weights[name], array, rtol=1e-3, atol=1e-4)


def test_with_frozen_parameters_a_restored_engine_continues_bit_for_bit() -> None:
    uninterrupted = train(create_engine(run(FROZEN)), 0, 1, 2, 3)
    resumed = create_engine(run(FROZEN))
    resumed.restore(train(create_engine(run(FROZEN)), 0, 1).state())
    assert equal_states(train(resumed, 2, 3).state(), uninterrupted.state())
