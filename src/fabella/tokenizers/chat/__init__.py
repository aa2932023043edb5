"""Special tokens and chat templates of tokenizers, and documents with them as ids."""
