"""Tests that models of every family get the requested size, or are refused with a size that works."""

import re

import pytest

from fabella.errors import ConfigError
from fabella.models.parameters import count
from fabella.models.registry import family_names
from fabella.run_config.files import load_config
from fabella.tuning.match_size import UNITS, matched_model, size_of, size_target

RUN = load_config("storybook-1m")
LENGTH = RUN.data.sequences.length


@pytest.mark.parametrize("measure", UNITS)
@pytest.mark.parametrize("family", family_names())
def test_every_family_has_the_size_of_the_config_within_one_percent(family: str, measure: str) -> None:
    target = size_target(RUN, measure, 0, 0, 0.01)
    assert target.size == size_of(RUN.model, target.measure, LENGTH)
    run = matched_model(RUN, family, target)
    assert run.model.family == run.name == family
    assert abs(size_of(run.model, target.measure, LENGTH) / target.size - 1) <= 0.01
    assert (run.model.vocab_size, run.optimizer, run.data) == (RUN.model.vocab_size, RUN.optimizer, RUN.data)


@pytest.mark.parametrize("measure", UNITS)
def test_the_model_of_the_config_stays_as_it_is(measure: str) -> None:
    model = matched_model(RUN, "llama", size_target(RUN, measure, 0, 0, 0.02)).model
    assert (model.model_dump()["dim"], model.model_dump()["ffn_dim"]) == (128, 384)
    assert count(model.parameters()) == count(RUN.model.parameters())


def test_a_plain_mingru_and_a_llama_of_one_size_have_about_equal_embeddings_too() -> None:
    """The reference family does not: most of its parameters are embeddings and heads of its layers."""
    totals = {
        family: count(matched_model(RUN, family, size_target(RUN, "non-embedding", 0, 0, 0.01)).model.parameters())
        for family in ("llama", "mingru_plain", "mingru")
    }
    assert abs(totals["mingru_plain"] / totals["llama"] - 1) < 0.03
    assert totals["mingru"] > 2 * totals["llama"]


@pytest.mark.parametrize("size", [1_000, 3_000, 10**10])
@pytest.mark.parametrize("family", ["llama", "mingru"])
def test_an_impossible_size_is_refused_with_the_nearest_one_which_works(family: str, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"No {family} with 4 layers has {size:,} parameters .*The nearest has") as e:
        matched_model(RUN, family, size_target(RUN, "total", size, 4, 0.02))
    advised = re.search(r"--size (\d+)", str(e.value))
    assert advised
    model = matched_model(RUN, family, size_target(RUN, "total", int(advised[1]), 4, 0.02)).model
    assert abs(count(model.parameters()) / int(advised[1]) - 1) <= 0.02
