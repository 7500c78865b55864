"""Causal grouped-query attention: the scoring rule, the reference formula and the faster forms."""
