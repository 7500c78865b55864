"""Formats of weights on disk that several architectures share, a folder each.

A format of a single publisher is with its architecture, as grok1/release is.
"""
