"""Families of one size on the same text: as large as allowed, trained alike, the best first."""

import json
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import ConfigError
from fabella.models.parameters import count
from fabella.models.registry import family_names
from fabella.run_config.files import load_config
from fabella.tuning.compare import MODELS, matched_model
from tests.report.test_page import whole
from tests.training import tiny

RUN = load_config("storybook-1m")


@pytest.mark.parametrize("family", sorted(MODELS))
def test_each_family_is_as_large_as_it_may_be(family: str) -> None:
    run = matched_model(RUN, family, 1_200_000, layers=4)
    assert run.model.family == run.name == family
    assert run.model.vocab_size == RUN.model.vocab_size
    assert run.optimizer == RUN.optimizer
    assert 0.8 * 1_200_000 <= count(run.model.parameters()) <= 1_200_000


def test_every_family_can_be_compared() -> None:
    assert set(MODELS) == set(family_names())


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(ConfigError, match=r"no family 'lama'.*llama"):
        matched_model(RUN, "lama", 10**6, 4)
    with pytest.raises(ConfigError, match="has at most 1,000 parameters"):
        matched_model(RUN, "llama", 1000, 4)


def test_the_command_trains_all_alike_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [setting for setting in tiny.SETTINGS if not setting.startswith("model.") or "vocab_size" in setting]
    words = ["compare-architectures", "storybook-1m", *settings, "model.context_length=32", "--steps", "4", "--json"]
    assert fabella([*words, "--families", "mingru,llama", "--parameters", "60000", "--layers", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    compared = found["compared"]
    assert {one["family"] for one in compared} == {"mingru", "llama"}
    assert len({one["tokens"] for one in compared}) == 1
    assert compared[0]["bits_per_byte"] <= compared[1]["bits_per_byte"]
    whole(Path(found["page"]).read_text())
