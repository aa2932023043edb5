"""Activations computed twice instead of kept: the same numbers in less memory, in every family."""

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
from tests.engine.test_engine_torch import TINY, batch, same


def config_of(family: str, **changes: Any) -> ModelConfig:
    tiny = family_module(family).Config.tiny()
    known = {name: value for name, value in changes.items() if name in type(tiny).model_fields}
    return type(tiny).model_validate(tiny.model_dump() | known)


def model_of(config: ModelConfig, *, recompute: bool) -> Any:
    model = build(config, initial_weights(config.parameters(), 1), torch.device("cpu")).train()
    if recompute:
        checkpoint_blocks(model)
    return model


def ids(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab_size, (4, 33), generator=torch.Generator().manual_seed(1))


def learned(config: ModelConfig, *, recompute: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Loss and gradients of one batch, with dropout."""
    model, tokens = model_of(config, recompute=recompute), ids(config)
    torch.manual_seed(7)
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", family_names())
def test_loss_and_gradients_are_the_same_bit_for_bit(family: str) -> None:
    config = config_of(family, dropout=0.3)
    (loss, gradients), (again, others) = (learned(config, recompute=flag) for flag in (False, True))
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys()
    assert [name for name in gradients if not torch.equal(gradients[name], others[name])] == []


class Held(TorchDispatchMode):
    """The most bytes of results that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def most_held(config: ModelConfig, *, recompute: bool) -> int:
    model, tokens = model_of(config, recompute=recompute), ids(config)
    with Held() as held:
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return held.most


@pytest.mark.parametrize("family", family_names())
def test_a_step_holds_less_memory(family: str) -> None:
    config = config_of(family, layers=8, vocab_size=61)
    assert most_held(config, recompute=True) < 0.7 * most_held(config, recompute=False)


def test_a_run_with_it_learns_the_same_weights_and_keeps_their_names() -> None:
    setting = [*TINY, "training.micro_batch_size=2", "model.dropout=0.2"]
    states = []
    for recompute in ("none", "blocks"):
        engine = create_engine(load_config("storybook-1m", [*setting, f"training.gradient_checkpointing={recompute}"]))
        for seed in range(3):
            engine.step(batch(seed), 1e-2)
        states.append(engine.state())
    assert same(*states)


def test_nothing_is_computed_twice_where_nothing_is_learned() -> None:
    config = config_of("llama")
    model, calls = model_of(config, recompute=False), []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_blocks(model)
    with torch.no_grad():
        model(ids(config))
    assert len(calls) == config.layers
    model.eval()(ids(config)).sum().backward()
    assert len(calls) == 2 * config.layers
