"""Tokenized datasets, training sequences, their order, and loaders that prefetch batches. Numpy only."""
