"""The JAX engine keeps the contract of engine.py, and goes the way that the PyTorch engine goes."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from fabella.data.batches import Batch
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
# Sums over micro-batches are taken in another order: float32 rounding, amplified by Adam's division at the first steps.
ACCUMULATION_TOLERANCE = 2e-3
# Of each loss of fifty steps against PyTorch's, relative.
TRAJECTORY_TOLERANCE = 1e-4
# Of each gradient norm on that way: a norm feels the weights' rounding more than the loss does.
NORM_TOLERANCE = 1e-3
STEPS = 50


def run(*overrides: str, engine: str = "jax") -> RunConfig:
    return load_config("storybook-1m", [*TINY, "training.micro_batch_size=4", f"engine={engine}", *overrides])


def batch(seed: int = 0, windows: int = 8, ignored: float = 0.0, vocab_size: int = 64) -> Batch:
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab_size, (windows, 13)).astype(np.int32)
    targets = np.where(random.random((windows, 12)) < ignored, IGNORE, ids[:, 1:]).astype(np.int32)
    return Batch(ids[:, :-1].copy(), targets)


def same(first: State, second: State) -> bool:
    """Bit for bit."""
    pairs = [(first.weights, second.weights), (first.optimizer_state, second.optimizer_state)]
    return dict(first.scalars) == dict(second.scalars) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in pairs
    )


def trained(engine: Engine, *seeds: int) -> Engine:
    for seed in seeds:
        engine.step(batch(seed), 1e-2)
    return engine


def test_a_new_engine_has_the_weights_of_the_table_and_no_memory() -> None:
    state = create_engine(run()).state()
    expected = initial_weights(run().model.parameters(), run().seed)
    assert all(np.array_equal(state.weights[name], array) for name, array in expected.items())
    assert all(not array.any() for array in state.optimizer_state.values())
    assert state.scalars["step"] == 0


# ---------------------------------------------------------------- beside PyTorch


GROUPS = "optimizer.groups={embeddings: {lr_factor: 2, decay_factor: 0}, vectors: {lr_factor: 0.5, decay_factor: 3}}"


def reduced_run(name: str, engine: str, *overrides: str) -> RunConfig:
    """A preset with its own optimizer and model, but small; two micro-batches a step, a norm that is clipped."""
    settings = [
        f"engine={engine}",
        "training.micro_batch_size=4",
        "training.compile=none",
        "optimizer.max_grad_norm=0.5",
    ]
    settings += ["data.sequences={kind: packed, length: 12, stride: 12}"]
    asked = load_config(name, [*settings, *overrides])
    return asked.model_copy(update={"model": reduced(asked.model)})


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, ()) for name in different_presets()), ("storybook-1m", (GROUPS,))]
)
def test_fifty_steps_of_any_preset_are_those_of_pytorch(name: str, overrides: tuple[str, ...]) -> None:
    """With accumulation of two micro-batches, padding, weight decay where the preset has it, and clipping."""
    engines = [create_engine(reduced_run(name, engine, *overrides)) for engine in ("torch", "jax")]
    batches = [batch(seed % 5, ignored=0.2, vocab_size=61) for seed in range(STEPS)]
    ours, theirs = ([engine.step(one, 1e-3).read() for one in batches] for engine in engines)
    for key, tolerance in (("loss", TRAJECTORY_TOLERANCE), ("grad_norm", NORM_TOLERANCE)):
        np.testing.assert_allclose(
            [row[key] for row in ours], [row[key] for row in theirs], rtol=tolerance, err_msg=key
        )


@pytest.mark.parametrize(("begun", "resumed"), [("torch", "jax"), ("jax", "torch")])
def test_a_run_begun_in_one_engine_goes_on_in_the_other(begun: str, resumed: str) -> None:
    straight = [create_engine(run(engine=begun)).step(batch(0), 1e-2).read()["loss"]]
    first, second = create_engine(run(engine=begun)), create_engine(run(engine=resumed))
    trained(first, 0, 1, 2)
    second.restore(first.state())
    expected, found = ([engine.step(batch(s), 1e-2).read()["loss"] for s in range(3, 9)] for engine in (first, second))
    np.testing.assert_allclose(found, expected, rtol=TRAJECTORY_TOLERANCE)
    assert min(expected) < straight[0]
    assert second.state().scalars == first.state().scalars


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("overrides", [(), ("model.dropout=0.2",)], ids=["plain", "dropout"])
def test_a_restored_engine_goes_on_bit_for_bit(overrides: tuple[str, ...]) -> None:
    straight = trained(create_engine(run(*overrides)), 0, 1, 2, 3)
    saved = trained(create_engine(run(*overrides)), 0, 1).state()
    resumed = create_engine(run(*overrides))
    resumed.restore(saved)
    assert same(trained(resumed, 2, 3).state(), straight.state())


def test_a_snapshot_is_not_changed_by_later_steps() -> None:
    engine = trained(create_engine(run()), 0)
    saved = engine.state()
    copy = State(
        *({k: np.copy(v) for k, v in part.items()} for part in (saved.weights, saved.optimizer_state)), saved.scalars
    )
    trained(engine, 1, 2)
    assert same(saved, copy)


def test_evaluating_changes_nothing() -> None:
    plain, watched = create_engine(run("model.dropout=0.2")), create_engine(run("model.dropout=0.2"))
    for seed in range(3):
        trained(plain, seed)
        watched.losses(batch(9))
        watched.histograms()
        with watched.evaluating() as used:
            used.model.forward(used.network, np.zeros((1, 3), np.int32))
        trained(watched, seed)
    assert same(plain.state(), watched.state())


def test_dropout_makes_steps_differ_and_losses_not() -> None:
    engine = create_engine(run("model.dropout=0.5"))
    assert np.array_equal(engine.losses(batch()), engine.losses(batch()))
    first, second = (engine.step(batch(), 0.0).read()["loss"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("micro", [1, 4])
def test_accumulating_micro_batches_is_the_step_of_the_whole_batch(micro: int) -> None:
    """Also where the last one is not full, and with dropout, which falls on each row by itself."""
    whole, parts = (create_engine(run("model.dropout=0.2", f"training.micro_batch_size={size}")) for size in (6, micro))
    both = batch(3, windows=6, ignored=0.3)
    losses = [engine.step(both, 1e-3).read()["loss"] for engine in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, array in whole.state().weights.items():
        np.testing.assert_allclose(parts.state().weights[name], array, atol=ACCUMULATION_TOLERANCE)


def test_losses_are_those_of_each_target_and_zero_where_ignored() -> None:
    engine = create_engine(run())
    part = batch(1, ignored=0.5)
    losses = engine.losses(part)
    assert losses.shape == part.tokens.shape
    assert not losses[part.targets == IGNORE].any()
    mean = losses.sum() / part.num_targets
    assert mean == pytest.approx(engine.step(part, 1e-3).read()["loss"], rel=1e-5)


def test_documents_of_any_length_are_padded_to_few_and_lose_nothing() -> None:
    engine = create_engine(run("data.sequences={kind: padded, length: 48}"))
    assert isinstance(engine, JaxEngine)
    part = batch(2)
    shapes = {engine._padded(Batch(part.tokens[:, :n], part.targets[:, :n]), 8)[0].shape for n in range(1, 13)}  # pyright: ignore[reportPrivateUsage]
    assert shapes == {(8, 12)}
    chained = create_engine(run())
    np.testing.assert_allclose(
        engine.losses(Batch(part.tokens[:, :7], part.targets[:, :7])), chained.losses(part)[:, :7], atol=1e-5
    )


def test_weight_decay_pulls_matrices_only() -> None:
    free, pulled = create_engine(run("optimizer.weight_decay=0.0")), create_engine(run("optimizer.weight_decay=5.0"))
    before = free.state().weights
    for engine in (free, pulled):
        engine.step(batch(), 1e-2)
    for name, parameter in run().model.parameters().items():
        pull = free.state().weights[name] - pulled.state().weights[name]
        # lr × decay × weight; the update itself is some 1e-2, so float32 leaves about 1e-8 of it.
        np.testing.assert_allclose(pull, 0.05 * before[name] if parameter.decay else 0.0, atol=1e-7, err_msg=name)


def test_histograms_are_of_weights_and_gradients() -> None:
    engine = create_engine(run())
    names = set(run().model.parameters())
    assert set(engine.histograms()) == {f"weights/{name}" for name in names}
    engine.step(batch(), 1e-2)
    found = engine.histograms()
    assert set(found) == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    for name, parameter in run().model.parameters().items():
        assert sum(found[f"gradients/{name}"].counts) == parameter.size


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("place", ["blocks.0.attention.query.weight", "embedding.weight"])
def test_a_step_that_is_not_finite_names_a_tensor_and_leaves_the_weights(place: str) -> None:
    engine = create_engine(run())
    state = engine.state()
    poisoned = {name: array.copy() for name, array in state.weights.items()}
    poisoned[place].flat[0] = np.nan
    engine.restore(dataclasses.replace(state, weights=poisoned))
    every_id = Batch(np.arange(64, dtype=np.int32).reshape(4, 16), np.arange(64, dtype=np.int32).reshape(4, 16))
    with pytest.raises(NumericsError, match=r"the gradient of .* is not finite\. The weights did not change"):
        engine.step(every_id, 1e-2)
    after = engine.state()
    for name, array in poisoned.items():
        assert np.array_equal(after.weights[name], array, equal_nan=True), name
    assert not any(array.any() for array in after.optimizer_state.values())
    assert after.scalars == {"step": 1, "updates": 0}


def test_no_step_is_taken_after_one_that_failed_where_nobody_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, whose steps are looked at some steps later."""
    monkeypatch.setattr(JaxEngine, "_waits", True)
    engine = trained(create_engine(run()), 0, 1)
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


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Unknown device 'quantum'. Choose from: auto, .*cpu"):
        create_engine(run(), device="quantum")
    with pytest.raises(ConfigError, match="Cannot use 9 devices: this machine has 1"):
        pick_devices("cpu", 9)


def test_muon_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.kind = 'muon' is not implemented for engine=jax"):
        create_engine(run("optimizer.kind=muon"))


def test_half_precision_on_a_cpu_is_float32_and_says_so() -> None:
    engine = create_engine(run("training.precision.kind=fp16"))
    assert engine.describe()["precision"] == "float32 (fp16 on GPUs)"


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
from tests.engine.test_engine_jax import batch, run, same, trained
from fabella.engine.device_jax import DEVICES
from fabella.engine.engine import create_engine

results = {}
for name, count, kind in (("one", 1, "ddp"), ("eight", 8, "ddp"), ("again", 8, "ddp"), ("shards", 8, "fsdp")):
    DEVICES.set(count)
    engine = create_engine(run("model.dropout=0.2", "training.micro_batch_size=1", f"training.parallel.kind={kind}"))
    trained(engine, 0, 1, 2)
    results[name] = engine.state()
    print(name, engine.describe().get("parallel", ""), engine.losses(batch(5, windows=3)).shape)
DEVICES.set(8)
engine = create_engine(run("model.dropout=0.2", "training.micro_batch_size=1", "training.parallel.kind=fsdp"))
query = "blocks.0.attention.query.weight"
print("whole", engine.weights[query].size, "shard", engine.weights[query].addressable_shards[0].data.size)
trained(engine, 0)
saved = engine.state()
engine = create_engine(run("model.dropout=0.2", "training.micro_batch_size=1", "training.parallel.kind=fsdp"))
engine.restore(saved)
trained(engine, 1, 2)
print("resumed", same(engine.state(), results["shards"]))
print("repeated", same(results["eight"], results["again"]))
for name in ("eight", "shards"):
    far = max(np.abs(results[name].weights[n] - w).max() for n, w in results["one"].weights.items())
    print(name, "near" if far < 2e-3 else far)
"""


def test_eight_devices_do_the_work_of_one_and_repeat_it_bit_for_bit() -> None:
    """Eight simulated ones; dropout falls on the same places, so that the difference is rounding alone."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
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
def test_half_precision_on_a_gpu_learns(kind: str) -> None:
    engine = create_engine(run(f"training.precision.kind={kind}"), device="cuda")
    losses = [engine.step(batch(), 1e-2).read()["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 2
