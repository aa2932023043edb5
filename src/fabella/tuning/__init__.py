"""Hyperparameter search, learning-rate range test and comparison of model families."""
