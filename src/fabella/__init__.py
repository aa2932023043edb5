"""Fabella: from a text file to a small language model, and from there to a story."""

__version__ = "0.1.0"
