"""The sections of a run's configuration: one file each, named like its table in a TOML file."""
