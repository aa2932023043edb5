"""Optimizers: one config file and one file per engine each, found by name."""
