"""Tests that gradient checkpointing gives the same bits with less memory, in every family."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fabella.engine.build_model_torch import build
from fabella.engine.compile.gradient_checkpointing_torch import checkpoint_blocks
from fabella.engine.engine import create_engine
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module, family_names
from fabella.run_config.files import load_config
from tests.engine.test_engine_torch import TINY, batch, equal_states


def make_config(family: str, **changes: Any) -> ModelConfig:
    tiny = family_module(family).Config.tiny()
    existing_fields = {name: value for name, value in changes.items() if name in type(tiny).model_fields}
    return type(tiny).model_validate(tiny.model_dump() | existing_fields)


def make_model(config: ModelConfig, *, checkpointing: bool) -> Any:
    model = build(config, initial_weights(config.parameters(), 1), torch.device("cpu")).train()
    if checkpointing:
        checkpoint_blocks(model)
    return model


def ids(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab_size, (4, 33), generator=torch.Generator().manual_seed(1))


def loss_and_gradients(config: ModelConfig, *, checkpointing: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return loss and gradients of one batch, with dropout."""
    model, tokens = make_model(config, checkpointing=checkpointing), ids(config)
    torch.manual_seed(7)
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", family_names())
def test_loss_and_gradients_are_the_same_bit_for_bit(family: str) -> None:
    config = make_config(family, dropout=0.3)
    (loss, gradients), (other_loss, other_gradients) = (
        loss_and_gradients(config, checkpointing=flag) for flag in (False, True)
    )
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    assert [name for name in gradients if not torch.equal(gradients[name], other_gradients[name])] == []


class PeakMemory(TorchDispatchMode):
    """Records the peak bytes of live tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_bytes(config: ModelConfig, *, checkpointing: bool) -> int:
    model, tokens = make_model(config, checkpointing=checkpointing), ids(config)
    with PeakMemory() as memory:
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return memory.peak


@pytest.mark.parametrize("family", family_names())
def test_a_step_uses_less_memory(family: str) -> None:
    config = make_config(family, layers=8, vocab_size=61)
    assert peak_bytes(config, checkpointing=True) < 0.7 * peak_bytes(config, checkpointing=False)


def test_a_run_with_checkpointing_has_the_same_state() -> None:
    setting = [*TINY, "training.micro_batch_size=2", "model.dropout=0.2"]
    states = []
    for checkpointing in ("none", "blocks"):
        engine = create_engine(
            load_config("storybook-1m", [*setting, f"training.gradient_checkpointing={checkpointing}"])
        )
        for seed in range(3):
            engine.step(batch(seed), 1e-2)
        states.append(engine.state())
    assert equal_states(*states)


def test_blocks_run_once_without_gradients() -> None:
    config = make_config("llama")
    model, calls = make_model(config, checkpointing=False), []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_blocks(model)
    with torch.no_grad():
        model(ids(config))
    assert len(calls) == config.layers
    model.eval()(ids(config)).sum().backward()
    assert len(calls) == 2 * config.layers
