"""Fixtures of the decoder tests: every family can be lowered."""

from tests.models.conftest import family

__all__ = ["family"]
