"""A run: shards, workers, journal, ledger, manifest."""
