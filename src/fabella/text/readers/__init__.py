"""Readers: one file per text format, found by its ``SUFFIXES``; reader.py has the contract."""
