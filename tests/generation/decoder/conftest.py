"""Fixtures of the decoder tests."""

import pytest

from fabella.models.registry import family_module, family_names
from tests.models.conftest import Family


@pytest.fixture(params=family_names())
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param, family_module(request.param).Config.tiny())
