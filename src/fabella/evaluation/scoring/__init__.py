"""Scores of text: the rules, their batches, the predictions of each engine, and sums over them."""
