"""Better settings, found by trying: searches, a test of learning rates, and families beside each other."""
