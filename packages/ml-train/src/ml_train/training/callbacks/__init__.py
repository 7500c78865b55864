"""Cadence and policy around the training loop."""
