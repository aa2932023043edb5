"""Families are compared with models of one size, trained the same way, the best first."""

import json
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import ConfigError
from fabella.models.parameters import count
from fabella.models.registry import family_names
from fabella.run_config.files import load_config
from fabella.tuning.compare import matched_model
from tests.report.test_page import check_html
from tests.training import tiny

RUN = load_config("storybook-1m")


@pytest.mark.parametrize("family", family_names())
def test_the_model_of_each_family_uses_the_parameter_budget(family: str) -> None:
    run = matched_model(RUN, family, 1_200_000, layers=4)
    assert run.model.family == run.name == family
    assert run.model.vocab_size == RUN.model.vocab_size
    assert run.optimizer == RUN.optimizer
    assert 0.8 * 1_200_000 <= count(run.model.parameters()) <= 1_200_000


def test_an_unknown_family_and_a_budget_that_is_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown family 'lama'.*llama"):
        matched_model(RUN, "lama", 10**6, 4)
    with pytest.raises(ConfigError, match="has at most 1,000 parameters"):
        matched_model(RUN, "llama", 1000, 4)


def test_the_command_trains_every_family_for_as_many_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [setting for setting in tiny.SETTINGS if not setting.startswith("model.") or "vocab_size" in setting]
    command = ["compare-architectures", "storybook-1m", *settings, "model.context_length=32", "--steps", "4", "--json"]
    assert fabella([*command, "--families", "mingru,llama", "--parameters", "60000", "--layers", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    compared = result["compared"]
    assert {family["family"] for family in compared} == {"mingru", "llama"}
    assert len({family["tokens"] for family in compared}) == 1
    assert compared[0]["bits_per_byte"] <= compared[1]["bits_per_byte"]
    check_html(Path(result["page"]).read_text())
