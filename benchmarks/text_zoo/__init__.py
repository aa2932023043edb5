"""The text zoo: kinds of files that people bring, each with what must come out of it."""
