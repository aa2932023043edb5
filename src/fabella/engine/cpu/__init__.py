"""Training on CPUs: the allocator, and what it uses besides the operations of PyTorch."""
