"""Similar texts: duplicates within a text, and overlap of a text with others."""
