"""Evaluation: held-out scores, generated text compared with real text, cloze test, memorization, standard tasks."""
