"""Training: the recipe in train.py, and everything periodic as an observer of it."""
