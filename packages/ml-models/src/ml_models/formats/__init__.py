"""Formats of weights on disk, one folder each."""
