"""Groups of weights: each with its own share of the learning rate and of the weight decay, in both engines."""

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


def moved(name: str, *overrides: str) -> np.ndarray:
    """How far one weight goes in the first step."""
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
        name: own.weight_decay
        for name, own in adamw.param_settings(table, adamw.Config(lr=1e-3, weight_decay=0.3)).items()
    }
    assert decays == {name: 0.3 if parameter.decay else 0.0 for name, parameter in table.items()}


@pytest.mark.parametrize("kind", ["adamw", "adam", "muon"])
@pytest.mark.parametrize("group", MEMBERS)
def test_a_group_learns_at_its_own_rate_and_the_others_as_before(group: str, kind: str) -> None:
    undecayed = [f"optimizer.kind={kind}", *(["optimizer.weight_decay=0"] if kind != "adam" else [])]
    undecayed += ["optimizer.adamw_weight_decay=0"] if kind == "muon" else []
    for other, name in MEMBERS.items():
        plain = moved(name, *undecayed)
        changed = moved(name, *undecayed, f"optimizer.groups.{group}.lr_factor=0.25")
        assert plain.any()
        np.testing.assert_allclose(changed, plain * (0.25 if other == group else 1.0), rtol=1e-2, atol=1e-7)


def test_a_group_that_does_not_learn_stays_as_it_was() -> None:
    assert not moved(MEMBERS["embeddings"], "optimizer.groups.embeddings.lr_factor=0").any()


@pytest.mark.parametrize("group", MEMBERS)
def test_a_group_decays_by_its_own_share(group: str) -> None:
    every = [f"optimizer.groups.{other}.decay_factor=0" for other in MEMBERS]
    name = MEMBERS[group]
    before = create_engine(run()).state().weights[name]
    pull = moved(name, *every, "optimizer.weight_decay=0.5", f"optimizer.groups.{group}.decay_factor=4") - moved(
        name, *every, "optimizer.weight_decay=0.5"
    )
    np.testing.assert_allclose(pull, -LR * 2.0 * before, atol=1e-7)


def test_factors_come_on_top_of_what_muon_says_of_the_rest() -> None:
    table = run().model.parameters()
    config = run(
        "optimizer={kind: muon, lr: 0.01, weight_decay: 0.1, adamw_lr_factor: 0.5, adamw_weight_decay: 0.02, "
        "groups: {embeddings: {lr_factor: 4, decay_factor: 0.5}, matrices: {lr_factor: 3, decay_factor: 2}}}"
    ).optimizer
    assert isinstance(config, muon.Config)
    settings = muon.param_settings(table, config)
    assert settings[MEMBERS["embeddings"]] == ParamSettings(2.0, 0.01)
    assert settings[MEMBERS["matrices"]] == ParamSettings(3.0, 0.2)
    assert settings[MEMBERS["vectors"]] == ParamSettings(0.5, 0.0)


def test_adam_has_no_decay_to_set() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.embeddings\.decay_factor"):
        run("optimizer.kind=adam", "optimizer.groups.embeddings.decay_factor=2")


def test_no_group_has_another_name() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.groups\.heads"):
        run("optimizer.groups.heads.lr_factor=2")
