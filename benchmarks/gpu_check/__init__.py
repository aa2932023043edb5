"""Examine on a GPU whether Fabella works there, repeats itself bit for bit, and is fast: ``make gpu-check``."""
