"""Tests that PyTorch's tools work on every family: a model is an nn.Module, and model(tokens) returns logits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

LOGITS_TOLERANCE = 2e-5
BATCH, TIME = 2, 7


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_forward_hook_sees_the_logits(family: Any) -> None:
    model, tokens, outputs = family.model(), family.tokens(BATCH, TIME), list[Tensor]()
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = model(tokens)
    assert len(outputs) == 1
    assert torch.equal(outputs[0], logits)


def test_export_gives_the_same_logits(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    with torch.no_grad():
        exported = torch.export.export(model, (tokens,))
        torch.testing.assert_close(exported.module()(tokens), model(tokens), atol=LOGITS_TOLERANCE, rtol=0)


def test_the_flop_counter_counts_the_forward_pass(family: Any) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        family.model()(family.tokens(BATCH, TIME))
    assert counter.get_total_flops() > 0


def test_plain_ddp_trains_the_model(family: Any, process_group: None) -> None:
    model, tokens = family.model().train(), family.tokens(BATCH, TIME)
    parallel = DistributedDataParallel(
        model, find_unused_parameters=True
    )  # the other heads of MinGRU are not used by forward
    functional.cross_entropy(parallel(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
