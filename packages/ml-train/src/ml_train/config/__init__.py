"""The typed configuration of a run: recipe, then TOML file, then flags, each beating the last."""
