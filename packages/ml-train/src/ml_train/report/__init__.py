"""A run's metrics.jsonl as pictures and as one self-contained HTML page."""
