"""Endpoints that take a request body."""
