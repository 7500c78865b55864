"""Grok-1 as xAI released it, its public variants as fields of the configuration."""
