"""A run of tokenize: plan, shards, workers, journal, outputs; and merge and split."""
