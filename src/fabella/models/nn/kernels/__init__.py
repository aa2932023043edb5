"""Training kernels for CPUs in C++, with their autograd functions; used by the engine's training step only."""
