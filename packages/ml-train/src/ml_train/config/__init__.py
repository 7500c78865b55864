"""The typed configuration of a run: flags win over a TOML file, which wins over a recipe."""
