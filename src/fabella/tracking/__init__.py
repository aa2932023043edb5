"""Trackers: destinations of the metrics of a run. `metrics.jsonl` is the primary one; all plots are drawn from it."""
