"""Documents come in: files, folders, hub data sets, the built-in storybook, weighted mixtures; and the doctor."""
