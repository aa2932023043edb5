"""Exam without network: pairs of texts with known truth, of which a model should find the right one more likely."""
