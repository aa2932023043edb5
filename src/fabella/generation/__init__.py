"""From a trained model to text: choosing ids, text while it grows, stories, and how likely a text is."""
