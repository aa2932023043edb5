"""Chat templates: conversations as text with special tokens, and the parts of it that a model learns to answer."""
