"""C++ code of the package: built on the user's machine, with its own compiler and for its own processor, once."""
