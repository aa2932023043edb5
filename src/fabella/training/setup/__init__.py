"""Resolve a request to a config and a prepared dataset."""
