"""Export and import of models: one file per format, in ``formats/``; every export is compared before it is kept."""
