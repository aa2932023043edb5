"""Reports of runs: one self-contained HTML page, PNG files, and a live view."""
