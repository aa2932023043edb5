"""Interactive story sessions in the terminal."""
