"""Estimates of memory and time; the batch-size finder."""
