"""Ids on disk and in order: shards, windows, the stateless shuffle, and batches made ahead of time. numpy only."""
