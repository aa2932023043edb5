"""torch.compile, its cache, gradient checkpointing."""
