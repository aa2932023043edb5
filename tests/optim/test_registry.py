"""Tests that optimizers are found by the names of their files."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fabella.optim
from fabella.engine.engine import create_engine
from fabella.errors import ConfigError
from fabella.optim.param_groups import ParamSettings
from fabella.optim.registry import engine_module, optimizer_module, optimizer_names, state_spec
from fabella.run_config.files import load_config, validate_config
from fabella.run_config.run import RunConfig
from tests.engine.test_engine_torch import TINY, batch

SIGN_SGD = """
from collections.abc import Mapping
from typing import Literal

import torch

from fabella.config.optimizer import OptimizerConfig


class Config(OptimizerConfig):
    kind: Literal["sign_sgd"] = "sign_sgd"
    momentum: float = 0.9


def state_spec(table, config):
    return {f"first.{name}": parameter.shape for name, parameter in table.items()}


class SignSGD:
    def __init__(self, parameters, momentum):
        self.parameters, self.momentum, self.count = parameters, momentum, 0
        self.momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    @torch.no_grad()
    def step(self, lr, apply_update):
        self.count += 1
        for name, parameter in self.parameters.items():
            self.momenta[name].lerp_(parameter.grad, 1 - self.momentum)
            parameter.sub_(self.momenta[name].sign(), alpha=lr)

    def state(self):
        return {f"first.{name}": momentum for name, momentum in self.momenta.items()}

    def load_state(self, state, updates):
        self.momenta = {name: state[f"first.{name}"] for name in self.parameters}
        self.count = updates

    def updates(self):
        return self.count


def create_optimizer(parameters, table, config, layout):
    return SignSGD(parameters, config.momentum)
"""


@pytest.fixture
def sign_sgd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Return the config of a run whose optimizer is a single file."""
    monkeypatch.setattr(fabella.optim, "__path__", [*fabella.optim.__path__, str(tmp_path)])
    (tmp_path / "sign_sgd_torch.py").write_text(SIGN_SGD)
    monkeypatch.delitem(sys.modules, "fabella.optim.sign_sgd_torch", raising=False)
    values = load_config("storybook-1m", [*TINY, "training.micro_batch_size=4"]).model_dump(mode="json")
    return validate_config({**values, "optimizer": {"kind": "sign_sgd", "lr": 1e-3}})


def test_the_optimizers_of_the_package_are_found_by_their_file_names() -> None:
    assert optimizer_names() == ["adam", "adamw", "muon"]
    for name in optimizer_names():
        assert optimizer_module(name).Config(lr=1e-3).kind == name


def assert_trains_and_resumes(run: RunConfig) -> None:
    """Require that the loss falls, and that a restored engine takes the same next step."""
    engine = create_engine(run)
    losses = [engine.step(batch(), 1e-3).read()["loss"] for _ in range(20)]
    assert losses[-1] < losses[0] - 0.1
    state = engine.state()
    assert list(state.optimizer_state) == list(state_spec(run.model.parameters(), run.optimizer))
    resumed = create_engine(run)
    resumed.restore(state)
    for each in (engine, resumed):
        each.step(batch(1), 1e-3)
    assert all(np.array_equal(resumed.state().weights[name], array) for name, array in engine.state().weights.items())


def test_an_optimizer_in_a_single_file_trains_and_resumes(sign_sgd: RunConfig) -> None:
    assert "sign_sgd" in optimizer_names()
    assert sign_sgd.model_dump()["optimizer"]["momentum"] == 0.9
    assert_trains_and_resumes(sign_sgd)


def test_the_optimizer_of_the_guide_trains_resumes_and_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide-extend.md").read_text(encoding="utf-8")
    code = next(code for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "lion_torch.py" in code)
    monkeypatch.setattr(fabella.optim, "__path__", [*fabella.optim.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "fabella.optim.lion_torch", raising=False)
    (tmp_path / "lion_torch.py").write_text(code)
    values = load_config("storybook-1m", [*TINY, "training.micro_batch_size=4"]).model_dump(mode="json")
    run = validate_config({**values, "optimizer": {"kind": "lion", "lr": 1e-3}})
    assert_trains_and_resumes(run)
    optimizer = optimizer_module("lion")
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.ones(3, 2)
    lion = optimizer.Lion({"a": parameter}, {"a": ParamSettings(1.0, 0.1)}, (0.9, 0.99))
    lion.step(1e-3, torch.tensor(False))
    assert torch.equal(parameter, torch.ones(3, 2))
    assert torch.equal(lion.state()["first.a"], torch.zeros(3, 2))


def test_an_optimizer_without_a_file_for_an_engine_is_refused(sign_sgd: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.kind = 'sign_sgd' is not implemented for engine=jax"):
        engine_module("sign_sgd", "jax")


def test_an_unknown_optimizer_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Unknown optimizer\.kind 'muonn'\. Did you mean 'muon'\?"):
        load_config("storybook-1m", ["optimizer.kind=muonn"])


def test_an_unknown_setting_of_an_optimizer_is_refused_with_the_nearest_one() -> None:
    values = load_config("storybook-1m").model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"optimizer\.bettas.*Did you mean 'optimizer\.betas'"):
        validate_config({**values, "optimizer": {"kind": "adamw", "lr": 1e-3, "bettas": [0.9, 0.95]}})


def test_an_optimizer_without_a_kind_is_refused() -> None:
    values = load_config("storybook-1m").model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"optimizer\.kind is missing\. Choose from: adam, adamw, muon"):
        validate_config({**values, "optimizer": {"lr": 1e-3}})
