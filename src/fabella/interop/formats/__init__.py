"""Export formats. A format is one file, found by its name; ``export_format`` has the contract."""
