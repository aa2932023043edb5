"""Tests that each parameter group has its own factors of learning rate and weight decay."""

import numpy as np
import pytest

from fabella.engine.engine import create_engine
from fabella.errors import ConfigError
from fabella.models.parameters import block_matrices
from fabella.optim import adamw, muon
from fabella.optim.param_groups import ParamSettings, param_group
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from tests.engine.test_engine_torch import TINY, batch

MEMBERS = {
    "embeddings": "embedding.weight",
    "matrices": "blocks.0.attention.query.weight",
    "vectors": "blocks.0.attention_norm.weight",
}
LR = 1e-2


def run(*overrides: str) -> RunConfig:
    return load_config("storybook-1m", [*TINY, "training.micro_batch_size=4", *overrides])


def change_of(name: str, *overrides: str) -> np.ndarray:
    """Return the change of a weight in the first step."""
    engine = create_engine(run(*overrides))
    before = engine.state().weights[name]
    engine.step(batch(), LR)
    return engine.state().weights[name] - before


def test_every_weight_is_in_one_group() -> None:
    table = run().model.parameters()
    groups = {name: param_group(parameter) for name, parameter in table.items()}
    assert {name: groups[name] for name in MEMBERS.values()} == {name: group for group, name in MEMBERS.items()}
    assert {name for name, group in groups.items() if group == "matrices"} == set(block_matrices(table))


def test_without_groups_matrices_decay_and_vectors_do_not() -> None:
    table = run().model.parameters()
    decays = {
        name: settings.weight_decay
        for name, settings in adamw.param_settings(table, adamw.Config(lr=1e-3, weight_decay=0.3)).items()
    }
    assert decays == {name: 0.3 if parameter.decay else 0.0 for name, parameter in table.items()}


@pytest.mark.parametrize("kind", ["adamw", "adam", "muon"])
@pytest.mark.parametrize("group", MEMBERS)
def test_an_lr_factor_applies_to_its_group_only(group: str, kind: str) -> None:
    without_decay = [f"optimizer.kind={kind}", *(["optimizer.weight_decay=0"] if kind != "adam" else [])]
    without_decay += ["optimizer.adamw.weight_decay=0"] if kind == "muon" else []
    for other, name in MEMBERS.items():
        plain = change_of(name, *without_decay)
        changed = change_of(name, *without_decay, f"optimizer.groups.{group}.lr_factor=0.25")
        assert plain.any()
        np.testing.assert_allclose(changed, plain * (0.25 if other == group else 1.0), rtol=1e-2, atol=1e-7)


def test_an_lr_factor_of_0_freezes_a_group() -> None:
    assert not change_of(MEMBERS["embeddings"], "optimizer.groups.embeddings.lr_factor=0").any()


@pytest.mark.parametrize("group", MEMBERS)
def test_a_decay_factor_applies_to_its_group(group: str) -> None:
    no_decay = [f"optimizer.groups.{other}.decay_factor=0" for other in MEMBERS]
    name = MEMBERS[group]
    before = create_engine(run()).state().weights[name]
    decay = change_of(
        name, *no_decay, "optimizer.weight_decay=0.5", f"optimizer.groups.{group}.decay_factor=4"
    ) - change_of(name, *no_decay, "optimizer.weight_decay=0.5")
    np.testing.assert_allclose(decay, -LR * 2.0 * before, atol=1e-7)


def test_group_factors_multiply_the_adamw_factors_of_muon() -> None:
    table = run().model.parameters()
    config = run(
        "optimizer={kind: muon, lr: 0.01, weight_decay: 0.1, adamw: {lr_factor: 0.5, weight_decay: 0.02}, "
        "groups: {embeddings: {lr_factor: 4, decay_factor: 0.5}, matrices: {lr_factor: 3, decay_factor: 2}}}"
    ).optimizer
    assert isinstance(config, muon.Config)
    settings = muon.param_settings(table, config)
    assert settings[MEMBERS["embeddings"]] == ParamSettings(2.0, 0.01)
    assert settings[MEMBERS["matrices"]] == ParamSettings(3.0, 0.2)
    assert settings[MEMBERS["vectors"]] == ParamSettings(0.5, 0.0)


def test_adam_has_no_decay_factor() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.embeddings\.decay_factor"):
        run("optimizer.kind=adam", "optimizer.groups.embeddings.decay_factor=2")


def test_an_unknown_group_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.heads"):
        run("optimizer.groups.heads.lr_factor=2")
