"""Grok-2 as its release is served; what the engines read differently is a field."""
