"""Where measurements go: the run's own metrics.jsonl (the truth), and people's eyes."""
