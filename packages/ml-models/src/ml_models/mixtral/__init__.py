"""Mixtral of Experts."""
