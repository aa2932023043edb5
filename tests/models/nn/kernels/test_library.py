"""Tests when the training kernels are used, and what happens without them."""

from pathlib import Path

import pytest
import torch

from fabella.errors import ConfigError
from fabella.models.nn.kernels import library as kernels
from fabella.models.nn.kernels.library import CODE, SWITCH, active_library, instructions, kernel_library, use_kernels
from fabella.models.nn.kernels.tensors_torch import kernels_for
from fabella.native.build import build_library


@pytest.fixture
def tensor() -> torch.Tensor:
    if kernel_library().library is None:
        pytest.skip(kernel_library().warning or "switched off")
    return torch.ones(2, 3)


def test_the_library_names_its_instructions(tensor: torch.Tensor) -> None:
    built = kernel_library().library
    assert built is not None
    assert instructions(built) in kernels.INSTRUCTIONS


def test_kernels_are_used_within_their_context_only(tensor: torch.Tensor) -> None:
    assert kernels_for(tensor) is None
    with use_kernels(kernel_library().library):
        assert kernels_for(tensor) is active_library() is not None
        with use_kernels(None):
            assert kernels_for(tensor) is None
        with torch.no_grad():
            assert kernels_for(tensor) is None
    assert active_library() is None


def test_only_plain_tensors_of_one_supported_type_are_taken(tensor: torch.Tensor) -> None:
    class Subclass(torch.Tensor):
        pass

    with use_kernels(kernel_library().library):
        assert kernels_for(tensor, torch.nn.Parameter(tensor)) is not None
        assert kernels_for(tensor.bfloat16()) is not None
        assert kernels_for(tensor, tensor.bfloat16()) is None
        assert kernels_for(tensor.double()) is None
        assert kernels_for(tensor[:0]) is None
        assert kernels_for(tensor.to("meta")) is None
        assert kernels_for(tensor.as_subclass(Subclass)) is None


def test_a_compiled_function_uses_no_kernels(tensor: torch.Tensor) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if kernels_for(x) is None else x + 2

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    with use_kernels(kernel_library().library):
        assert torch.equal(compiled(tensor), tensor + 1)
        assert torch.equal(function(tensor), tensor + 2)


def test_the_user_can_switch_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert kernel_library().library is None
    assert not kernel_library().warning
    monkeypatch.setenv(SWITCH, "of")
    with pytest.raises(ConfigError, match="Set FABELLA_KERNELS=off, or unset it"):
        kernel_library()


def test_without_a_compiler_there_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    built = build_library(CODE, print)
    assert built.library is None
    assert built.warning == (
        "Training is slower without the training kernels: this machine has no C++ compiler (install g++)."
    )


def test_the_sources_are_in_the_package() -> None:
    assert all(source.is_file() for source in CODE.sources)
    assert {path.name for path in CODE.sources[0].parent.glob("*.h")} == {path.name for path in CODE.sources[1:]}
