"""Processes that train together: process groups, launchers, strategies."""
