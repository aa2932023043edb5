"""Text that is tokenized while training."""
