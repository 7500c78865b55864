"""Ranks that hang or die: signs of life, hang reports, and a bound on every wait."""
