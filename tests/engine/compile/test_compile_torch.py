"""Tests that compiled blocks train like eager ones up to rounding, resume to the same bits, and when they are used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.data.batches import Batch
from fabella.engine.compile import compile_torch
from fabella.engine.compile.compile_cache_torch import PLACE
from fabella.engine.compile.compile_torch import is_compiled
from fabella.engine.engine_torch import TorchEngine, create_engine
from fabella.errors import ConfigError
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig

# Warnings of PyTorch: one from importing its compiler, one that the compiler itself suppresses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
]
CPU = torch.device("cpu")
PACKED = "data.sequences={kind: packed, length: 16, stride: 16}"
SMALL = {
    "llama": "{family: llama, vocab_size: 64, context_length: 16, dim: 16, layers: 2, heads: 2, kv_heads: 1, "
    "ffn_dim: 24}",
    "hybrid": "{family: hybrid, vocab_size: 64, context_length: 16, dim: 16, layers: 2, layer_pattern: ma, "
    "heads: 2, ffn_dim: 24}",
}
# Fused kernels sum in another order: a few units in the last place of sums over 16 to 64 numbers of size 1.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private_kernel_dir(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a kernel folder that no other process writes to or cleans."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv(PLACE, "torchinductor_test")  # PyTorch sets it on import


def run(family: str, compiled: str, *overrides: str) -> RunConfig:
    settings = [f"model={SMALL[family]}", PACKED, "training.micro_batch_size=2", f"training.compile={compiled}"]
    return load_config("storybook-1m", [*settings, *overrides])


def batches(count: int) -> list[Batch]:
    ids = np.random.default_rng(0).integers(0, 64, (count, 2, 17)).astype(np.int32)
    return [Batch(line[:, :-1], line[:, 1:]) for line in ids]


def train(engine: TorchEngine, steps: list[Batch]) -> dict[str, Any]:
    for batch in steps:
        engine.step(batch, 1e-3).read()
    return engine.state().weights


@pytest.mark.parametrize("family", SMALL)
def test_compiled_blocks_train_like_eager_ones_and_resume_to_the_same_bits(family: str) -> None:
    steps = batches(4)
    uninterrupted = train(create_engine(run(family, "blocks"), "cpu"), steps)
    eager = train(create_engine(run(family, "none"), "cpu"), steps)
    for name, weights in uninterrupted.items():
        np.testing.assert_allclose(weights, eager[name], atol=ROUNDING, err_msg=name)

    first = create_engine(run(family, "blocks"), "cpu")
    train(first, steps[:2])
    second = create_engine(run(family, "blocks", "seed=9"), "cpu")
    second.restore(first.state())
    resumed = train(second, steps[2:])
    assert all(np.array_equal(weights, uninterrupted[name]) for name, weights in resumed.items())


def test_evaluation_uses_the_eager_blocks() -> None:
    compiled, eager = (create_engine(run("llama", mode), "cpu") for mode in ("blocks", "none"))
    (batch,) = batches(1)
    assert np.array_equal(compiled.losses(batch), eager.losses(batch))


def test_a_long_run_is_compiled_and_a_short_one_is_not() -> None:
    assert is_compiled(run("llama", "auto", "training.length={max_steps: 100000000}"), CPU)
    assert not is_compiled(run("llama", "auto", "training.length={max_steps: 100}"), CPU)
    assert not is_compiled(run("llama", "auto", "training.length={max_steps: 100000000}"), CPU, kernels=True)
    assert is_compiled(run("llama", "blocks"), CPU, kernels=True)
    assert not is_compiled(run("llama", "none", "training.length={max_steps: 100000000}"), CPU)


def test_the_error_says_why_blocks_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = run("llama", "blocks", "data.sequences={kind: padded, length: 16}")
    with pytest.raises(ConfigError, match="padded sequences have many lengths"):
        is_compiled(padded, CPU)
    monkeypatch.setattr(compile_torch.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        is_compiled(run("llama", "blocks"), CPU)
    assert not is_compiled(run("llama", "auto", "training.length={max_steps: 100000000}"), CPU)
