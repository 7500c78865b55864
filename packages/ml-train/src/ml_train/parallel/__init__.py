"""Parallel layouts: which are legal, and the process groups of the layout that is chosen."""
