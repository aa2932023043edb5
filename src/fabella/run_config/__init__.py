"""The config of a run: presets, YAML files and overrides."""
