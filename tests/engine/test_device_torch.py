"""Tests which precision each device uses, and how it is described."""

import contextlib
from typing import Any

import pytest
import torch

from fabella.config.training import AutoPrecision, BFloat16, Float16, Float32, PrecisionConfig
from fabella.engine import device_torch
from fabella.engine.device_torch import describe_precision, pick_device, resolve_precision, same_bits, seed_random
from fabella.engine.rank import RankInfo
from fabella.errors import ConfigError


@pytest.mark.parametrize(
    ("requested", "device", "bf16", "expected"),
    [
        (AutoPrecision(), "cuda", True, "bfloat16 (chosen for this device)"),
        (AutoPrecision(), "cuda", False, "float16 (chosen for this device)"),
        (AutoPrecision(), "mps", True, "float32 (chosen for this device)"),
        (AutoPrecision(), "cpu", True, "float32 (chosen for this device)"),
        (Float32(), "cuda", True, "float32"),
        (BFloat16(), "cuda", True, "bfloat16"),
        (Float16(), "cuda", True, "float16"),
        (BFloat16(), "cpu", True, "float32 (bf16 is not faster on this CPU)"),
    ],
    ids=str,
)
def test_the_precision_of_each_device(
    requested: PrecisionConfig, device: str, bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_torch, "_has_bf16", lambda: bf16)
    precision = resolve_precision(requested, torch.device(device), {})
    assert describe_precision(requested, precision) == expected
    assert precision.scaled == (precision.compute == torch.float16)


# ---------------------------------------------------------------- which GPU


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend that there are two GPUs of which the first is the current one; return the ones made current."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    return current


@pytest.mark.parametrize(
    ("name", "rank", "index"),
    [
        ("auto", RankInfo(), 0),
        ("cuda", RankInfo(), 0),
        ("cuda:1", RankInfo(), 1),
        ("auto", RankInfo(rank=3, world_size=4, local_rank=1), 1),
    ],
)
def test_a_process_uses_one_gpu_with_an_index_and_makes_it_current(
    two_gpus: list[int], name: str, rank: RankInfo, index: int
) -> None:
    assert pick_device(name, rank) == torch.device("cuda", index)
    assert two_gpus == [index]


@pytest.mark.parametrize("name", ["cuda:2", "cuda:-1", "cuda:", "cuda:first"])
def test_a_gpu_that_does_not_exist_is_refused(two_gpus: list[int], name: str) -> None:
    with pytest.raises(ConfigError, match=r"this process sees 2 GPU\(s\)\. Use --device cuda:0"):
        pick_device(name)
    assert two_gpus == []


def test_only_a_gpu_has_a_number(two_gpus: list[int]) -> None:
    assert [pick_device(name).type for name in ("cpu", "cpu:0")] == ["cpu", "cpu"]
    for name in ("cpu:1", "cpu:", "cpu:first", "cpu:0:0", "auto:0", "cuda2", "CPU", "", "meta"):
        with pytest.raises(ConfigError, match=rf"Unknown device '{name}'\. Choose from: auto, cuda, cuda:N, cpu\."):
            pick_device(name)
    assert two_gpus == []


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize(
    ("device", "enabled", "expected"), [("cuda", True, 1), ("cuda", False, 0), ("cpu", True, 0), ("mps", True, 0)]
)
def test_kernels_are_deterministic_during_a_step_on_a_cuda_gpu_only(device: str, enabled: bool, expected: int) -> None:
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    with contextlib.suppress(ZeroDivisionError), same_bits(torch.device(device), enabled=enabled):
        during = torch.get_deterministic_debug_mode()
        raise ZeroDivisionError
    assert during == expected
    assert (torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory) == before


def test_seeding_gives_the_numbers_of_torch_manual_seed() -> None:
    numbers = []
    for seed in (torch.manual_seed, lambda number: seed_random(number, torch.device("cpu"))):
        seed(2**63 + 5)
        numbers.append(torch.rand(8))
    assert torch.equal(*numbers)
