"""Step time, memory, peak FLOP/s."""
