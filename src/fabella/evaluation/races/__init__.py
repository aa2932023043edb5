"""Races: a fixed budget, a fixed score, and a receipt for each entry. One YAML file is one race."""
