"""Readers: one file per text format."""
