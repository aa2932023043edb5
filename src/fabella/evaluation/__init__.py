"""What a model has learned: how well it predicts held-out text, how it tells stories, and what it only copied."""
