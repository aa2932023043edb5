"""Tests that every family passes the family checks, and that each kind of mistake fails its check."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fabella.engine import family_checks_torch
from fabella.engine.family_checks_torch import CHECKS, check_family
from fabella.models.registry import family_module, family_names


@pytest.mark.parametrize("name", family_names())
def test_every_family_passes_every_check(name: str) -> None:
    results = check_family(family_module(name).Config.tiny())
    assert [result.name for result in results] == list(CHECKS)
    assert not [result for result in results if result.problem]


class Mutant(nn.Module):
    """A family's network with one method replaced."""

    def __init__(self, network: Any, **methods: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.methods = methods

    def __getattr__(self, name: str) -> Any:
        methods = self.__dict__.get("methods", {})
        return methods[name] if name in methods else getattr(self.__dict__["_modules"]["network"], name)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.methods["forward"](tokens) if "forward" in self.methods else self.network(tokens)


def attends_to_later_tokens(network: Any) -> Mutant:
    return Mutant(network, forward=lambda tokens: network(tokens).roll(-1, dims=1))


def mixes_rows(network: Any) -> Mutant:
    return Mutant(network, forward=lambda tokens: network(tokens) + network(tokens).mean(0, keepdim=True))


def ignores_the_state(network: Any) -> Mutant:
    return Mutant(network, decode=lambda tokens, state: (network(tokens)[:, -1], state))


def includes_padding_in_the_loss(network: Any) -> Mutant:
    def token_losses(tokens: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(tokens).transpose(1, 2), targets.clamp(min=0), reduction="none")

    return Mutant(network, token_losses=token_losses)


def returns_non_finite_logits(network: Any) -> Mutant:
    return Mutant(network, forward=lambda tokens: network(tokens) / 0.0)


def ignores_documents(network: Any) -> Mutant:
    return Mutant(network, token_losses=lambda tokens, targets, _starts=None: network.token_losses(tokens, targets))


def has_a_constant_loss(network: Any) -> Mutant:
    parameter = next(network.parameters())
    return Mutant(network, loss=lambda tokens, targets: (parameter * 0).sum() + 1)


@pytest.mark.parametrize(
    ("mutate", "check"),
    [
        (returns_non_finite_logits, "forward returns finite logits"),
        (attends_to_later_tokens, "no position depends on later tokens"),
        (mixes_rows, "rows of a batch are independent"),
        (ignores_the_state, "decode equals forward, whole, in chunks and token by token"),
        (includes_padding_in_the_loss, "padding has no loss"),
        (ignores_documents, "documents are independent where they are masked"),
        (has_a_constant_loss, "every parameter gets a gradient"),
        (has_a_constant_loss, "the loss of one repeated batch falls"),
    ],
)
def test_each_mistake_fails_its_check(
    mutate: Callable[[Any], Mutant], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = family_checks_torch.build
    monkeypatch.setattr(family_checks_torch, "build", lambda config: mutate(build(config)))
    failed = {result.name for result in check_family(family_module("llama").Config.tiny()) if result.problem}
    assert check in failed


def test_a_table_that_differs_from_the_network_fails() -> None:
    config = family_module("llama").Config.tiny()
    with_wrong_table = config.model_copy(update={"layers": config.layers})
    table = {**config.parameters()}
    table.popitem()
    object.__setattr__(with_wrong_table, "parameters", lambda: table)
    failed = {result.name for result in check_family(with_wrong_table) if result.problem}
    assert "parameter table equals the network" in failed


def test_a_check_reports_what_the_family_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Any) -> nn.Module:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(family_checks_torch, "build", fail)
    results = {result.name: result.problem for result in check_family(family_module("gpt2").Config.tiny())}
    assert results["forward returns finite logits"] == "RuntimeError: shapes do not match"
    assert torch.is_grad_enabled()
