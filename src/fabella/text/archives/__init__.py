"""Text files within archives: .zip, and .tar with any compression."""
