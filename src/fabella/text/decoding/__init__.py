"""Encodings: their names, and the detection of one from bytes."""
