"""A generator of short stories."""
