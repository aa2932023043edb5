"""Callbacks: metrics, validation, samples, checkpoints."""
