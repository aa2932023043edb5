"""Other libraries that benchmarks compare with."""
