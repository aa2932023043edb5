"""Tests that every kind of ``data.mode`` has an implementation that is found by its name."""

from typing import get_args

import pytest

from fabella.config.data import DataConfig
from fabella.data.modes.mode import data_mode

KINDS = [model.model_fields["kind"].default for model in get_args(DataConfig.model_fields["mode"].annotation)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_mode_is_found_by_its_file_name(kind: str) -> None:
    assert type(data_mode(kind)).__module__ == f"fabella.data.modes.{kind}"


def test_only_the_pretokenized_mode_has_the_complete_text_on_disk() -> None:
    assert {kind: data_mode(kind).complete for kind in KINDS} == {"pretokenized": True, "streaming": False}
