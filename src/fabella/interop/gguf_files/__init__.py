"""GGUF files: sizes, tensors and vocabularies in both directions, read with the gguf library."""
