"""Text sources: files, hub datasets, the storybook and weighted mixtures; decoding and data quality."""
