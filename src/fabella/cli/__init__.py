"""The command line: one thin file a command, found by its name. A file parses, calls and prints."""
