"""The decoder in C++."""
