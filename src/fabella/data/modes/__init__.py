"""Data modes: one file per kind of ``data.mode``, found by its name."""
