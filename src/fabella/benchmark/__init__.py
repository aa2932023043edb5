"""Benchmarks of training and decoding."""
