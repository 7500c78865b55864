"""Parallel layouts: which are legal, and the process groups of the chosen one."""
