"""Decode backends."""
