"""Fixtures of the decoder tests."""

import pytest

from fabella.models.registry import family_module
from tests.models.conftest import Family, lowered_families


@pytest.fixture(params=[*lowered_families(), "modern"])
def family(request: pytest.FixtureRequest) -> Family:
    tiny = family_module(request.param).Config.tiny()
    changes = {"convolution": 0} if request.param == "modern" else {}
    return Family(request.param, type(tiny).model_validate({**tiny.model_dump(), **changes}))
