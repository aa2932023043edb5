"""Paired comparison of finished runs on the same documents, and its statistics."""
