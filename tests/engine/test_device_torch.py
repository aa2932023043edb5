"""Tests which precision each device uses, and how it is described."""

import pytest
import torch

from fabella.config.training import AutoPrecision, BFloat16, Float16, Float32, PrecisionConfig
from fabella.engine import device_torch
from fabella.engine.device_torch import describe_precision, resolve_precision


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
