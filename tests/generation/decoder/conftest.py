"""Fixtures of the decoder tests."""

import pytest

from fabella.models.registry import family_module
from tests.models.conftest import Family, lowered_families


@pytest.fixture(params=lowered_families())
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param, family_module(request.param).Config.tiny())
